package main

import (
	"encoding/xml"
	"fmt"
	"os"

	"github.com/tocsin-dr/tocsin/internal/pipeline"
)

// junitSuite is a test report in the form that build servers read.
type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Failure *junitFailure `xml:"failure"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
}

func writeJUnit(name string, all []pipeline.TestResult, failed int) error {
	suite := junitSuite{Name: "tocsin rules", Tests: len(all), Failures: failed}
	for _, res := range all {
		c := junitCase{Class: res.Rule, Name: res.Test}
		if !res.OK {
			c.Failure = &junitFailure{failure(res)}
		}
		suite.Cases = append(suite.Cases, c)
	}
	text, err := xml.MarshalIndent(suite, "", "  ")
	if err != nil {
		return fmt.Errorf("write JUnit report: %w", err)
	}
	if err := os.WriteFile(name, append([]byte(xml.Header), text...), 0o600); err != nil {
		return fmt.Errorf("write JUnit report: %w", err)
	}
	return nil
}
