// The bank account that the two payment agents work on: a ledger in memory.
import { sleep } from './harness.mjs';

const ibanLength = { AT: 20, DE: 22, FR: 27, NL: 18 };
const transferLimit = 10_000;

export class Account {
  constructor({ iban, balance, rnd }) {
    Object.assign(this, { iban, balance, rnd, sentToday: 0, outages: 0 });
  }

  /** The next transfer fails once, as payment gateways do. */
  breakOnce() {
    this.outages = 1;
  }

  newDay(income = 0) {
    this.sentToday = 0;
    this.balance = round(this.balance + income);
  }

  async getBalance() {
    await sleep(this.rnd.int(3, 20));
    return { account: this.iban, balance: this.balance, currency: 'EUR' };
  }

  async sendMoney({ recipient, amount, subject }) {
    await sleep(this.rnd.int(10, 60));
    if (this.outages > 0) {
      this.outages--;
      throw new Error('payment gateway timed out, nothing was booked');
    }
    const wanted = ibanLength[recipient.slice(0, 2)];
    if (!/^[A-Z]{2}\d{2}[A-Z0-9]{10,30}$/.test(recipient) || (wanted && recipient.length !== wanted)) {
      throw new Error(`invalid account number ${recipient}`);
    }
    if (amount > this.balance) throw new Error('amount exceeds the balance');
    if (this.sentToday + amount > transferLimit) throw new Error(`daily limit of ${transferLimit} EUR exceeded`);
    this.balance = round(this.balance - amount);
    this.sentToday = round(this.sentToday + amount);
    return { status: 'booked', reference: `TX-${this.rnd.id(8)}`, recipient, amount, subject, balance: this.balance };
  }
}

const round = (amount) => Math.round(amount * 100) / 100;

/** People paste account numbers in groups of four; the bank wants none. */
export const grouped = (iban) => iban.replace(/(.{4})(?=.)/g, '$1 ');

/** A folder of text files in memory. A missing file fails as it would on disk. */
export async function readFile(folder, path, rnd) {
  await sleep(rnd.int(3, 25));
  if (!folder.has(path)) throw new Error(`ENOENT: no such file, open '${path}'`);
  return folder.get(path);
}
