// Package errtext writes errors as text, where [encoding/json] would write {}.
package errtext

// Of returns the text of an error, nil for nil.
func Of(err error) *string {
	if err == nil {
		return nil
	}
	text := err.Error()
	return &text
}
