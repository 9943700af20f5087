package console

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// attribute is a key of a log line with its value.
type attribute struct{ key, value string }

// parseLine takes a line apart that log/slog's TextHandler wrote. It reports false for any other line.
func parseLine(line string) ([]attribute, bool) {
	var list []attribute
	for rest := line; rest != ""; {
		key, after, found := strings.Cut(rest, "=")
		if !found || key == "" || strings.ContainsAny(key, " \"") {
			return nil, false
		}
		value, next, ok := parseValue(after)
		if !ok {
			return nil, false
		}
		list, rest = append(list, attribute{key, value}), next
	}
	return list, len(list) >= 3 && list[0].key == "time" && list[1].key == "level" && list[2].key == "msg"
}

// parseValue cuts off a value, quoted or not, and the space behind it.
func parseValue(text string) (value, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		value, rest, _ = strings.Cut(text, " ")
		return value, rest, true
	}
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return "", "", false
	}
	value, err = strconv.Unquote(quoted)
	return value, strings.TrimPrefix(text[len(quoted):], " "), err == nil
}

// readable writes a log line for a person at a terminal: the hour, the level where it matters, the message, and the rest faintly.
// A line of another form stays as it is.
func (c *Console) readable(line string) string {
	list, ok := parseLine(line)
	if !ok {
		return line
	}
	at, err := time.Parse(time.RFC3339Nano, list[0].value)
	if err != nil {
		return line
	}
	var b strings.Builder
	b.WriteString(c.Say(Faint, at.Local().Format("15:04:05.000")) + " ")
	message := list[2].value
	switch list[1].value {
	case "ERROR":
		b.WriteString(c.Say(Bad, message))
	case "WARN":
		b.WriteString(c.Say(Wary, message))
	case "DEBUG":
		b.WriteString(c.Say(Faint, message))
	default:
		b.WriteString(message)
	}
	for _, a := range list[3:] {
		value := a.value
		if value == "" || strings.ContainsAny(value, " \"=\n\t") {
			value = strconv.Quote(value)
		}
		b.WriteString(c.Say(Faint, fmt.Sprintf(" %s=%s", a.key, value)))
	}
	return b.String()
}
