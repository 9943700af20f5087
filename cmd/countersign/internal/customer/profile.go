package customer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/countersign-mesh/countersign/cmd/countersign/internal/rundir"
	"github.com/countersign-mesh/countersign/pkg/userauth/device"
)

// Profile is where one device of one customer is kept: a directory for its owner alone. The zero value is not usable; see OpenProfile.
type Profile struct {
	name, dir string
	notes     notes
}

// notes are what has to be remembered beside the device and its session.
type notes struct {
	Username string `json:"username"`
	// Step is the step of the last one-time code that was made from a secret.
	Step int64 `json:"otp_step,omitempty"`
}

// Errors of a profile that lacks something.
var (
	ErrNotEnrolled = errors.New("no device is enrolled")
	ErrLoggedOut   = errors.New("nobody is logged in")
	// ErrEnrolled means that there is a device already, which must not be lost.
	ErrEnrolled = errors.New("a device is enrolled already")
)

var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckName says what is wrong with the name of a profile.
func CheckName(name string) error {
	if !profileName.MatchString(name) {
		return fmt.Errorf("%q is no name of a profile: right would be up to 63 of a-z, 0-9, dot, dash and underscore, such as alice", name)
	}
	return nil
}

// OpenProfile returns the profile with this name in a directory of profiles. Nothing is made yet.
func OpenProfile(parent, name string) (*Profile, error) {
	p := &Profile{name: name, dir: filepath.Join(parent, name)}
	text, err := os.ReadFile(p.file("profile.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = p.private()
	}
	if err == nil {
		err = json.Unmarshal(text, &p.notes)
	}
	if err != nil {
		return nil, fmt.Errorf("read the profile %s: %w", name, err)
	}
	return p, nil
}

func (p *Profile) file(name string) string { return filepath.Join(p.dir, name) }

// private fails when others may use the directory: the device's key is in there.
func (p *Profile) private() error {
	info, err := os.Stat(p.dir)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s has mode %#o, and a key is in it; right would be: chmod 700 %[1]s", p.dir, info.Mode().Perm())
	}
	return err
}

// String returns where the profile is.
func (p *Profile) String() string { return p.dir }

// Username is what the customer logs in with.
func (p *Profile) Username() string { return p.notes.Username }

// Prepare makes the directory for a device that is about to be enrolled: once it is, the server knows it. The error is an ErrEnrolled when there is one.
func (p *Profile) Prepare() error {
	switch _, err := p.Device(); {
	case err == nil:
		return ErrEnrolled
	case !errors.Is(err, ErrNotEnrolled):
		return err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("make the profile %s: %w", p.name, err)
	}
	return p.private()
}

// Enrolled keeps a device, and whose it is.
func (p *Profile) Enrolled(d *device.Device, username string) error {
	p.notes.Username = username
	if err := d.Save(p.file("device")); err != nil {
		return err
	}
	return p.write()
}

// Codes are the one-time codes of a secret, of which this profile uses none twice. Used is to be called when some were.
func (p *Profile) Codes(secret string) *Codes {
	c := NewCodes(secret)
	c.Last = p.notes.Step
	return c
}

// Used remembers which codes were used.
func (p *Profile) Used(c *Codes) error {
	p.notes.Step = c.Last
	return p.write()
}

func (p *Profile) write() error {
	text, err := json.MarshalIndent(p.notes, "", "  ")
	if err == nil {
		err = rundir.WriteFile(p.file("profile.json"), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the profile %s: %w", p.name, err)
	}
	return nil
}

// Device returns the device that is enrolled; the error is an ErrNotEnrolled when there is none.
func (p *Profile) Device() (*device.Device, error) {
	dir := p.file("device")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in the profile %s", ErrNotEnrolled, p.name)
	}
	return device.Load(dir)
}

// Session returns the session that somebody has logged in to, and its device; the error is an ErrLoggedOut when there is none.
func (p *Profile) Session(b Bank) (*device.Device, *device.Session, error) {
	d, err := p.Device()
	if err != nil {
		return nil, nil, err
	}
	dir := p.file("session")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w in the profile %s", ErrLoggedOut, p.name)
	}
	session, err := d.Resume(b.Login(), dir)
	return d, session, err
}

// LoggedIn keeps a session, in the place of one that was there.
func (p *Profile) LoggedIn(s *device.Session) error {
	if err := p.LoggedOut(); err != nil {
		return err
	}
	return s.Keep(p.file("session"))
}

// LoggedOut forgets the session.
func (p *Profile) LoggedOut() error {
	if err := os.RemoveAll(p.file("session")); err != nil {
		return fmt.Errorf("forget the session of the profile %s: %w", p.name, err)
	}
	return nil
}
