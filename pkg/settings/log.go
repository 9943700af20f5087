package settings

import (
	"fmt"
	"io"
	"log/slog"
)

// Level is the least level of log records that are written.
type Level string

// Check reports what is wrong with the level.
func (l *Level) Check() error {
	var v slog.Level
	if err := v.UnmarshalText([]byte(*l)); err != nil {
		return fmt.Errorf("%q is not debug, info, warn or error", string(*l))
	}
	return nil
}

// Value returns the level; info when Check would fail.
func (l Level) Value() slog.Level {
	v := slog.LevelInfo
	if v.UnmarshalText([]byte(l)) != nil {
		return slog.LevelInfo
	}
	return v
}

// LogFormat is how log records are written: "text" for people, "json" for programs.
type LogFormat string

// Check reports what is wrong with the format.
func (f *LogFormat) Check() error {
	if *f != "text" && *f != "json" {
		return fmt.Errorf("%q is not text or json", string(*f))
	}
	return nil
}

// NewLogger returns a logger that writes to w.
func NewLogger(w io.Writer, level Level, format LogFormat) *slog.Logger {
	options := &slog.HandlerOptions{Level: level.Value()}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
