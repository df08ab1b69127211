package check

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/qcheck/qcheck/"

// below says which packages of the project each may import, by the longest
// folder that matches. A package may always import what lies in its own folder, and
// whoever knows check knows its findings.
var below = map[string][]string{
	"qcow2":         nil,
	"refcount":      {"qcow2"},
	"check/problem": {"qcow2"},
	"check":         {"check/problem", "check/sniff", "refcount", "qcow2"},
	"check/sniff":   {"qcow2"},
	"check/chain":   {"check", "qcow2"},
	"check/repair":  {"check", "check/sniff", "refcount", "qcow2"},
	// It copies what a check has read.
	"check/metadump": {"check", "check/sniff", "refcount", "qcow2"},
	// It shares no decision with the repairs that it judges.
	"check/repair/proof":     {"check", "check/sniff", "refcount", "qcow2"},
	"report":                 {"check/chain", "check", "qcow2"},
	"corpus":                 {"check/repair", "check", "refcount", "qcow2"},
	"fuzz":                   {"corpus", "check/repair", "check", "refcount", "qcow2"},
	"cmd":                    {"report", "fuzz", "corpus", "check/rescue", "check/repair", "check/metadump", "check/chain", "check", "refcount", "qcow2", "report/mapview", "check/filemap"},
	"check/rescue":           {"check/repair", "check", "check/sniff", "refcount", "qcow2"},
	"check/rescue/landmarks": nil,
	"check/filemap":          {"check", "check/sniff", "qcow2"},
	"report/mapview":         {"check/filemap", "check", "qcow2"},
	// Tools of the build.
	"check/internal/gendocs": {"check/problem"},
}

// noFiles lists the packages that are given readers and writers, and never open
// anything themselves, print, or know of a command line.
var noFiles = []string{"qcow2", "refcount", "check", "check/problem", "check/sniff", "check/chain", "check/repair", "check/repair/proof", "check/metadump", "check/rescue", "check/rescue/landmarks", "report", "check/filemap"}

var outside = []string{"os", "os/exec", "os/signal", "flag", "log", "net", "path/filepath", "io/ioutil", "syscall"}

// layer finds the row of below for a package.
func layer(pkg string) (string, bool) {
	for dir := pkg; dir != "."; dir = path.Dir(dir) {
		if _, ok := below[dir]; ok {
			return dir, true
		}
	}
	return "", false
}

// within tells whether a package lies in a folder.
func within(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// sources gives every Go file of the project but the tests, with its folder.
func sources(t *testing.T) map[string][]*ast.File {
	t.Helper()
	root := ".."
	files := make(map[string][]*ast.File)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "demo") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(p))
		files[filepath.ToSlash(dir)] = append(files[filepath.ToSlash(dir)], f)
		return err
	})
	require.NoError(t, err)
	require.Contains(t, files, "qcow2")
	return files
}

// Imports point downwards only, and what knows no files stays so.
func TestImportsPointDownwards(t *testing.T) {
	for pkg, files := range sources(t) {
		row, ok := layer(pkg)
		if !assert.True(t, ok, "package %s has no place in the order of imports", pkg) {
			continue
		}
		for _, f := range files {
			for _, spec := range f.Imports {
				target, err := strconv.Unquote(spec.Path.Value)
				require.NoError(t, err)
				if own, inside := strings.CutPrefix(target, module); inside {
					to, ok := layer(own)
					allowed := within(own, pkg) || to == row || slices.Contains(below[row], to) || to == "check/problem" && slices.Contains(below[row], "check")
					assert.True(t, ok && allowed, "%s imports %s", pkg, own)
				}
				if slices.Contains(noFiles, row) {
					assert.NotContains(t, outside, target, "%s imports %s", pkg, target)
				}
				if target == "testing" {
					assert.Contains(t, []string{"corpus/qemutest", "corpus/guestdisk", "fuzz/fuzztest"}, pkg, "imports testing")
				}
			}
		}
	}
}

// Only a command ends the process, reads its arguments or prints to its output.
func TestOnlyCommandsTouchTheProcess(t *testing.T) {
	forbidden := map[string]bool{"os.Exit": true, "os.Args": true, "os.Stdout": true, "os.Stderr": true, "os.Stdin": true,
		"fmt.Print": true, "fmt.Printf": true, "fmt.Println": true}
	for pkg, files := range sources(t) {
		for _, f := range files {
			if f.Name.Name == "main" {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok {
						name := x.Name + "." + n.Sel.Name
						assert.False(t, forbidden[name], "%s uses %s", pkg, name)
					}
				case *ast.CallExpr:
					if fn, ok := n.Fun.(*ast.Ident); ok {
						assert.False(t, fn.Name == "print" || fn.Name == "println", "%s uses %s", pkg, fn.Name)
					}
				}
				return true
			})
		}
	}
}
