package baselines

import (
	"errors"
	"fmt"
)

// MarshalBinary seals the page and returns its bytes.
func (p *page) MarshalBinary() ([]byte, error) {
	p.seal()
	return p[:], nil
}

// UnmarshalBinary refuses bytes that are not a page as this version writes it.
func (p *page) UnmarshalBinary(data []byte) error {
	if len(data) != pageSize {
		return fmt.Errorf("page of %d bytes, want %d", len(data), pageSize)
	}
	if err := (*page)(data).check(); err != nil {
		return err
	}
	copy(p[:], data)
	return nil
}

// Check refuses a model that was read back and that the code could not go on with.
func (m *Model) Check() error {
	if m.Agents == nil || m.Names == nil || m.Causes == nil || m.Cares == nil || len(m.Causes) > maxCauses || len(m.Agents) > maxAgents || len(m.Names) > maxNames {
		return errors.New("baselines without their tables, or with too much in them")
	}
	for _, s := range []maturities{m.Scores, m.Pure} {
		if s[young] == nil || s[grown] == nil || s[anyAge] == nil {
			return errors.New("baselines without calibrations")
		}
	}
	for id, p := range m.Agents {
		if p == nil || p.u64(hAgent) != agentKey(id) {
			return fmt.Errorf("the page of %q is another's, or none", id)
		}
	}
	if err := m.checkCares(); err != nil {
		return err
	}
	p := &m.Peers
	sized := func(b []byte, n int) bool { return b == nil || len(b) == n }
	cells := sketchRows * sketchWidth
	if !sized(p.Contexts, classContexts*contextSize) || !sized(p.Values, classValues*valueSize) || (p.Contexts == nil) != (p.Values == nil) ||
		!sized(p.Seen.Young, cells) || !sized(p.Seen.Elder, cells) || !sized(p.Used.Young, cells) || !sized(p.Used.Elder, cells) {
		return errors.New("baselines with tables of another size")
	}
	if p.Sessions < 0 || p.Reads < 0 || p.Flows < 0 || p.Signed < 0 || p.Signed > p.Flows {
		return errors.New("baselines with counts that nothing leaves")
	}
	for i := range p.Rates {
		if !p.Rates[i].check() {
			return fmt.Errorf("baselines with counts of %s that no windows leave", rateNames[i])
		}
	}
	if !p.Week.check() || len(p.Amounts) > maxAmounts {
		return errors.New("baselines with a week or amounts that nothing leaves")
	}
	for _, a := range p.Amounts {
		if !a.check() {
			return errors.New("baselines with an amount that no numbers leave")
		}
	}
	return nil
}
