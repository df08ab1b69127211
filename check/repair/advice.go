package repair

import (
	"slices"

	"github.com/qcheck/qcheck/check"
)

// advise tells which of the findings that are left a repair settles when it is asked
// for more, by the catalogue: one option for each code.
func advise(r *check.Result, o *Options) (list []Advice) {
	for i := range r.Findings {
		f := &r.Findings[i]
		option := ""
		switch {
		case f.Repair == check.RepairLossy && !o.AllowDataLoss:
			option = "--allow-data-loss"
		case f.Repair == check.RepairReattach && !o.Reattach:
			option = "--reattach"
		case f.Code == check.BMD012 && o.policy() == PolicyMark && o.bitmaps():
			option = "--bitmap-policy=" + string(PolicyAllDirty)
		case f.Severity > check.Note && (f.Repair == check.RepairSafe || f.Repair == check.RepairPolicy) && !o.everything():
			option = "--repair=" + string(ScopeAll)
		}
		if a := (Advice{Code: f.Code, Option: option}); option != "" && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}
