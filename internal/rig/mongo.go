package rig

import (
	"crypto/rand"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// sharedMongo is one server for the whole test process: a JVM takes its time
// to start.
var sharedMongo = sync.OnceValues(startMongo)

// Mongo returns the URL of a new, empty database on a stand-in for MongoDB
// (mongo-java-server with the memory backend, which says it is MongoDB 4.4).
// The server is shared by all tests of the process and ends with it. It knows
// no users, and refuses every login as MongoDB refuses a wrong password; it
// has MongoDB's fail point "failCommand".
//
// Of what MongoDB can do it lacks, among others, update pipelines, change
// streams, transactions, the end of documents by TTL indexes.
func Mongo(t testing.TB) (url string) {
	t.Helper()
	server, err := sharedMongo()
	check(t, err)
	return "mongodb://" + server.addr + "/t" + strings.ToLower(rand.Text()[:12])
}

// mongoServer holds on to the process: collected as garbage it would close the
// server's standard input.
type mongoServer struct {
	process *process
	addr    string
}

func startMongo() (*mongoServer, error) {
	dir, err := built("mongostandin", "pom.xml", "src/main/java/dev/tokenbus/mongostandin/Main.java")
	if err != nil {
		return nil, err
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, fmt.Errorf("java is missing: %w", errMissing)
	}
	path := filepath.Join(dir, "classes") + string(filepath.ListSeparator) + filepath.Join(dir, "lib", "*")
	p, line, err := start(exec.Command(java,
		"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", // a quick start
		"-cp", path, "dev.tokenbus.mongostandin.Main"), "ready ")
	if err != nil {
		return nil, err
	}
	return &mongoServer{p, "127.0.0.1:" + strings.TrimPrefix(line, "ready ")}, nil
}
