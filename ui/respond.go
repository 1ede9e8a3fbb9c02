package ui

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/internal/action"
	"github.com/tocsin-dr/tocsin/internal/approval"
)

// reversible are the actions that can be decided in advance.
func reversible() (out []string) {
	all := action.Descriptions()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if d := all[name]; d.Class == approval.Contain && !d.Irreversible {
			out = append(out, name)
		}
	}
	return out
}

// standingTerms are how long a decision in advance may stand, as the form offers it.
func standingTerms() []time.Duration {
	return []time.Duration{24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour, 90 * 24 * time.Hour}
}

// backTo leads to a page, or shows the approvals with what was refused.
func (c *Console) backTo(w http.ResponseWriter, r *http.Request, by approval.Principal, err error) error {
	switch {
	case err == nil:
		http.Redirect(w, r, "/approvals#standing", http.StatusSeeOther)
		return nil
	case approval.Kind(err) == "":
		return err
	}
	return c.showApprovals(w, r, by, statusOf(err), capital(err.Error())+".")
}

// propose takes a decision in advance from its form. What is wrong with it, the decision itself says.
func (c *Console) propose(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	lease, _ := time.ParseDuration(r.PostFormValue("lease"))
	stands, _ := time.ParseDuration(r.PostFormValue("for"))
	perHour, _ := strconv.Atoi(r.PostFormValue("per_hour"))
	_, err := c.o.Actor.Propose(r.Context(), by, approval.Standing{
		Action: r.PostFormValue("action"), Rules: strings.Fields(r.PostFormValue("rules")), Agents: strings.Fields(r.PostFormValue("agents")),
		Lease: lease, PerHour: perHour, Until: c.o.Now().Add(stands), Reason: strings.TrimSpace(r.PostFormValue("reason")),
	})
	return c.backTo(w, r, by, err)
}

func (c *Console) sign(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	_, err := c.o.Actor.SignStanding(r.Context(), by, r.PathValue("id"))
	return c.backTo(w, r, by, err)
}

func (c *Console) revoke(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	why, err := given(r, "reason")
	if err == nil {
		_, err = c.o.Actor.RevokeStanding(r.Context(), by, r.PathValue("id"), why)
	}
	return c.backTo(w, r, by, err)
}

func (c *Console) halt(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	why, err := given(r, "reason")
	if err == nil {
		err = c.o.Actor.Halt(r.Context(), by, why)
	}
	return c.switched(w, r, err)
}

func (c *Console) resume(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	why, err := given(r, "reason")
	if err == nil {
		err = c.o.Actor.Resume(r.Context(), by, why)
	}
	return c.switched(w, r, err)
}

// switched leads to the page that has the switch.
func (c *Console) switched(w http.ResponseWriter, r *http.Request, err error) error {
	if err == nil {
		http.Redirect(w, r, "/health", http.StatusSeeOther)
	}
	return err
}
