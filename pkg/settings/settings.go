// Package settings reads a program's settings from its flags and environment variables into a struct, and reports every bad
// value at once.
//
// A settings struct is a kong grammar (https://github.com/alecthomas/kong) whose fields have the types of this package. These
// take any text while the command line is read and judge it afterwards, so that a person who made three mistakes is told of three.
package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"
)

// ErrHelp is returned by Parse after it has printed the help that was asked for.
var ErrHelp = errors.New("help was printed")

// checker is a value that judges itself. The error says what would be right.
type checker interface{ Check() error }

// Parse reads args (without the program's name) and the environment into settings, a pointer to a struct. Each flag --foo-bar
// of program "ledger" can also be given as LEDGER_FOO_BAR, unless its env tag says otherwise; the command line wins. A command of it,
// such as "ledger verify", has the variables of the program. Help goes to out.
func Parse(program, description string, args []string, out io.Writer, settings any) error {
	helped := false
	name, _, _ := strings.Cut(program, " ")
	parser, err := kong.New(settings,
		kong.Name(program),
		kong.Description(description),
		kong.DefaultEnvars(strings.ToUpper(name)),
		kong.Writers(out, out),
		kong.Exit(func(int) { helped = true }),
	)
	if err != nil {
		return fmt.Errorf("settings of %s: %w", program, err)
	}
	ctx, err := parser.Parse(args)
	if helped {
		return ErrHelp
	}
	if parseErr, ok := errors.AsType[*kong.ParseError](err); ok {
		// What is missing or unknown is one mistake; the values that are there may have others.
		err = fmt.Errorf("%w (%s --help lists all flags)", err, program)
		return errors.Join(err, check(parseErr.Context))
	}
	return errors.Join(err, check(ctx))
}

// check judges every flag that has a value and names each that is wrong.
func check(ctx *kong.Context) error {
	var errs []error
	for _, flag := range ctx.Flags() {
		c, ok := reflect.TypeAssert[checker](flag.Target.Addr())
		if !ok || flag.Required && !flag.Set {
			continue
		}
		if err := c.Check(); err != nil {
			errs = append(errs, fmt.Errorf("--%s%s: %w", flag.Name, origin(flag), err))
		}
	}
	return errors.Join(errs...)
}

// origin names the environment variable that a value may have come from.
func origin(flag *kong.Flag) string {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return " (or " + name + ")"
		}
	}
	return ""
}
