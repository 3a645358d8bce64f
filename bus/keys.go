package bus

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nkeys"
)

// publicKey returns the public key of the role, whose seed is in dir in the
// file [KeyFile] names. It makes the seed if there is none.
func publicKey(dir string, role Role) (string, error) {
	path := filepath.Join(dir, keyName(role))
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if seed, err = makeSeed(dir, path); err != nil {
			return "", fmt.Errorf("make nkey of role %s: %w", role, err)
		}
	} else if err != nil {
		return "", fmt.Errorf("read nkey of role %s: %w", role, err)
	}
	defer clear(seed)
	pair, err := nkeys.FromSeed(bytes.TrimSpace(seed))
	if err != nil {
		return "", fmt.Errorf("read nkey of role %s: %s holds no nkey seed; remove it and a new one is made", role, path)
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil || !nkeys.IsValidPublicUserKey(public) {
		return "", fmt.Errorf("read nkey of role %s: %s holds no user's nkey seed; remove it and a new one is made", role, path)
	}
	return public, nil
}

// makeSeed writes a new seed to path. The file appears complete or not at all.
func makeSeed(dir, path string) ([]byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	seed, err := pair.Seed() // pair's own bytes: the caller wipes them
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".nk-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(seed, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return nil, err
	}
	return seed, os.Rename(f.Name(), path)
}

func keyName(role Role) string { return string(role) + ".nk" }

// KeyFile returns where the embedded server that keeps its data under dataDir
// has the nkey seed of the role.
func KeyFile(dataDir string, role Role) string {
	return filepath.Join(dataDir, serverDir, keyName(role))
}
