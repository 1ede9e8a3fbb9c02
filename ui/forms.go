package ui

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-dr/tocsin/baselines"
	"github.com/tocsin-dr/tocsin/internal/approval"
	"github.com/tocsin-dr/tocsin/internal/incident"
	"github.com/tocsin-dr/tocsin/internal/store"
)

func agentPath(id string) string { return "/agents?id=" + url.QueryEscape(id) }

// decide passes on a person's answer. A refusal is shown beside the question, with the reason as they typed it.
func (c *Console) decide(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	request, err := c.o.Reader.Request(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	answer := c.o.Actor.Decide
	if r.PostFormValue("glass") != "" {
		answer = c.o.Actor.BreakGlass
	}
	err = answer(r.Context(), by, request.ID, r.PostFormValue("digest"), approval.Verb(r.PostFormValue("verb")), strings.TrimSpace(r.PostFormValue("reason")))
	switch {
	case err == nil:
		http.Redirect(w, r, "/incidents/"+url.PathEscape(request.Incident), http.StatusSeeOther)
		return nil
	case approval.Kind(err) != "":
		return c.showRequest(w, r, by, statusOf(err), capital(err.Error())+".")
	}
	c.o.Log.ErrorContext(r.Context(), "console: decide", "request", request.ID, "error", err)
	return c.showRequest(w, r, by, http.StatusInternalServerError, "Whether the decision counts is unknown: look at the request's state below before you try again.")
}

// back leads to the incident, or shows it with what was refused.
func (c *Console) back(w http.ResponseWriter, r *http.Request, by approval.Principal, err error) error {
	if err == nil {
		http.Redirect(w, r, "/incidents/"+url.PathEscape(r.PathValue("id")), http.StatusSeeOther)
		return nil
	}
	if approval.Kind(err) == "" {
		return err
	}
	return c.showIncident(w, r, by, statusOf(err), capital(err.Error())+".")
}

// given returns a form's reason, or the refusal of one that says nothing.
func given(r *http.Request, field string) (string, error) {
	text := strings.TrimSpace(r.PostFormValue(field))
	if len([]rune(text)) < approval.MinReason {
		return "", &approval.Refusal{Kind: approval.RefusedReason, Text: "a " + field + " of at least three characters is needed"}
	}
	return text, nil
}

func (c *Console) notice(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	return c.back(w, r, by, c.o.Actor.Notice(r.Context(), by, r.PathValue("id")))
}

func (c *Console) note(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	text, err := given(r, "note")
	if err == nil {
		err = c.o.Actor.Note(r.Context(), by, r.PathValue("id"), text)
	}
	return c.back(w, r, by, err)
}

// run starts a playbook.
func (c *Console) run(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	why, err := given(r, "reason")
	name := r.PostFormValue("playbook")
	if _, known := c.o.Playbooks[name]; err == nil && !known {
		err = &approval.Refusal{Kind: approval.RefusedReason, Text: "choose a playbook"}
	}
	if err == nil {
		err = c.o.Actor.RunPlaybook(r.Context(), by, r.PathValue("id"), name, why)
	}
	return c.back(w, r, by, err)
}

// editDraft takes a person's version of a draft. Browsers send lines that end in a carriage return.
func (c *Console) editDraft(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	base, _ := strconv.Atoi(r.PostFormValue("base")) // what is no number is no version
	text := strings.ReplaceAll(r.PostFormValue("markdown"), "\r\n", "\n")
	_, err := c.o.Actor.EditDraft(r.Context(), by, r.PathValue("id"), r.PathValue("name"), base, text)
	return c.back(w, r, by, err)
}

func (c *Console) close(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	why, err := given(r, "reason")
	verdict := incident.Verdict(r.PostFormValue("verdict"))
	switch {
	case err != nil:
	case !slices.Contains([]incident.Verdict{incident.TruePositive, incident.FalsePositive, incident.Expected, incident.Unclear}, verdict):
		err = &approval.Refusal{Kind: approval.RefusedReason, Text: "choose a verdict"}
	default:
		_, err = c.o.Actor.Close(r.Context(), by, r.PathValue("id"), verdict, why)
	}
	return c.back(w, r, by, err)
}

func (c *Console) lift(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	why, err := given(r, "reason")
	if err == nil {
		err = c.o.Actor.Lift(r.Context(), by, r.PathValue("lease"), why)
	}
	return c.back(w, r, by, err)
}

// changeBaseline changes the baseline of the agent that the form names.
func (c *Console) changeBaseline(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	agent, err := url.PathUnescape(r.PostFormValue("id")) // an agent's id may hold what no page should
	if err != nil {
		agent = r.PostFormValue("id")
	}
	why, err := given(r, "reason")
	change := r.PostFormValue("change")
	switch {
	case err != nil:
	case change == baselines.Expected:
		err = c.expected(r, by, agent, why)
	default:
		_, err = c.o.Actor.ChangeBaseline(r.Context(), by, agent, change, why)
	}
	if kind := approval.Kind(err); kind != "" {
		return c.showAgent(w, r, by, agent, statusOf(err), capital(err.Error())+".")
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, agentPath(agent), http.StatusSeeOther)
	return nil
}

// expected closes an incident of the agent as expected, which lets what was held back teach.
func (c *Console) expected(r *http.Request, by approval.Principal, agent, why string) error {
	inc, err := c.o.Reader.Incident(r.Context(), r.PostFormValue("incident"))
	if errors.Is(err, store.ErrNotFound) || err == nil && inc.Agent.ID != agent {
		return &approval.Refusal{Kind: approval.RefusedUnknown, Text: "choose an incident of this agent"}
	}
	if err != nil {
		return err
	}
	_, err = c.o.Actor.Close(r.Context(), by, inc.ID, incident.Expected, why)
	return err
}

// askFor requests a containment of the agent of an incident. The target is the incident's own, not the form's.
func (c *Console) askFor(w http.ResponseWriter, r *http.Request, by approval.Principal) error {
	inc, err := c.o.Reader.Incident(r.Context(), r.PostFormValue("incident"))
	if err != nil {
		return err
	}
	tool, err := url.PathUnescape(r.PostFormValue("tool")) // a tool's name may hold what no page should
	if err != nil {
		tool = r.PostFormValue("tool")
	}
	target := approval.Target{Agent: inc.Agent.ID, Tool: tool}
	if r.PostFormValue("scope") == "session" {
		target.Session = inc.Session
	}
	lease, err := time.ParseDuration(r.PostFormValue("lease"))
	if err != nil || !slices.Contains(leaseTimes(), lease) {
		err = &approval.Refusal{Kind: approval.RefusedReason, Text: "choose how long"}
	}
	var why string
	if err == nil {
		why, err = given(r, "reason")
	}
	if err == nil && inc.Status == incident.Closed {
		err = &approval.Refusal{Kind: approval.RefusedLate, Text: "the incident is closed"}
	}
	if err == nil {
		err = c.o.Actor.Ask(r.Context(), by, inc.ID, target, lease, why)
	}
	if approval.Kind(err) != "" {
		return c.showAgent(w, r, by, inc.Agent.ID, statusOf(err), capital(err.Error())+".")
	}
	if err == nil {
		http.Redirect(w, r, "/incidents/"+url.PathEscape(inc.ID), http.StatusSeeOther)
	}
	return err
}
