package sigma

import (
	"regexp"
	"slices"
	"strings"

	"github.com/tocsin-dr/tocsin/detect"
)

// tactics gives each tactic of MITRE ATT&CK the risk of OWASP's agentic list under which an agent that does it falls. The tags of a
// Sigma rule say what an attacker wants on a host; ours say what went wrong with the agent. A reviewer may know better.
var tactics = map[string]string{
	"reconnaissance":       "ASI02", // tools used to look around
	"resource-development": "ASI04", // what is built now is supplied later
	"initial-access":       "ASI01", // somebody else steers the agent
	"execution":            "ASI05",
	"persistence":          "ASI10", // an agent that stays where it was not asked to
	"privilege-escalation": "ASI03",
	"defense-evasion":      "ASI10",
	"defense-impairment":   "ASI10",
	"stealth":              "ASI10",
	"credential-access":    "ASI03",
	"discovery":            "ASI02",
	"lateral-movement":     "ASI03",
	"collection":           "ASI02",
	"command-and-control":  "ASI10",
	"exfiltration":         "ASI02",
	"impact":               "ASI02",
}

// defaultRisk is for rules without a tactic.
const defaultRisk = "ASI02"

// techniques gives techniques of ATT&CK their namesakes in MITRE ATLAS.
var techniques = map[string]string{
	"t1003": "AML.T0090", "t1005": "AML.T0037", "t1036": "AML.T0074", "t1048": "AML.T0025", "t1057": "AML.T0089", "t1059": "AML.T0050",
	"t1078": "AML.T0012", "t1190": "AML.T0049", "t1195": "AML.T0010", "t1204": "AML.T0011", "t1212": "AML.T0106", "t1213": "AML.T0036",
	"t1485": "AML.T0101", "t1497": "AML.T0097", "t1526": "AML.T0075", "t1550": "AML.T0091", "t1552": "AML.T0055", "t1566": "AML.T0052",
	"t1580": "AML.T0075", "t1611": "AML.T0105",
}

var technique = regexp.MustCompile(`^t[0-9]{4}`)

// tagsOf maps the tags of a Sigma rule. Those of the catalogues, as atlas.aml.t0051 or owasp.asi01, stay what they are.
func tagsOf(tags []string, catalogue detect.Catalogue) detect.Tags {
	var out detect.Tags
	for _, tag := range tags {
		namespace, name, _ := strings.Cut(strings.ToLower(tag), ".")
		id := strings.ToUpper(strings.ReplaceAll(name, "aml-", "aml."))
		switch {
		case catalogue.ASI[id] != "":
			out.ASI = append(out.ASI, id)
		case catalogue.ATLAS[id] != "":
			out.ATLAS = append(out.ATLAS, id)
		case namespace == "attack":
			if risk := tactics[strings.ReplaceAll(name, "_", "-")]; risk != "" {
				out.ASI = append(out.ASI, risk)
			}
			if id := techniques[technique.FindString(name)]; catalogue.ATLAS[id] != "" {
				out.ATLAS = append(out.ATLAS, id)
			}
		}
	}
	if len(out.ASI)+len(out.ATLAS) == 0 {
		out.ASI = []string{defaultRisk}
	}
	slices.Sort(out.ASI)
	slices.Sort(out.ATLAS)
	out.ASI, out.ATLAS = slices.Compact(out.ASI), slices.Compact(out.ATLAS)
	return out
}
