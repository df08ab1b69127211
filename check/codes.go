package check

import "strings"

// Code names a kind of finding. Codes are stable: never renumbered, never
// reused. What each means stands in the catalogue, see [Lookup].
type Code string

// The codes of the catalogue.
const (
	FIL001 Code = "FIL001"

	HDR001 Code = "HDR001"
	HDR002 Code = "HDR002"
	HDR003 Code = "HDR003"
	HDR004 Code = "HDR004"
	HDR005 Code = "HDR005"
	HDR006 Code = "HDR006"
	HDR007 Code = "HDR007"
	HDR008 Code = "HDR008"
	HDR009 Code = "HDR009"
	HDR010 Code = "HDR010"
	HDR011 Code = "HDR011"
	HDR012 Code = "HDR012"
	HDR013 Code = "HDR013"
	HDR014 Code = "HDR014"
	HDR015 Code = "HDR015"
	HDR016 Code = "HDR016"
	HDR017 Code = "HDR017"
	HDR018 Code = "HDR018"
	HDR019 Code = "HDR019"
	HDR020 Code = "HDR020"
	HDR021 Code = "HDR021"
	HDR022 Code = "HDR022"

	EXT001 Code = "EXT001"
	EXT002 Code = "EXT002"
	EXT003 Code = "EXT003"
	EXT004 Code = "EXT004"
	EXT005 Code = "EXT005"
	EXT006 Code = "EXT006"
	EXT007 Code = "EXT007"

	MAP001 Code = "MAP001"
	MAP002 Code = "MAP002"
	MAP003 Code = "MAP003"
	MAP004 Code = "MAP004"
	MAP005 Code = "MAP005"
	MAP006 Code = "MAP006"
	MAP007 Code = "MAP007"
	MAP008 Code = "MAP008"
	MAP009 Code = "MAP009"
	MAP010 Code = "MAP010"
	MAP011 Code = "MAP011"
	MAP012 Code = "MAP012"
	MAP013 Code = "MAP013"
	MAP014 Code = "MAP014"
	MAP015 Code = "MAP015"
	MAP016 Code = "MAP016"
	MAP017 Code = "MAP017"
	MAP018 Code = "MAP018"
	MAP019 Code = "MAP019"
	MAP020 Code = "MAP020"
	MAP021 Code = "MAP021"
	MAP022 Code = "MAP022"

	CMP001 Code = "CMP001"

	REF001 Code = "REF001"
	REF002 Code = "REF002"
	REF003 Code = "REF003"
	REF004 Code = "REF004"
	REF005 Code = "REF005"
	REF006 Code = "REF006"
	REF007 Code = "REF007"
	REF008 Code = "REF008"
	REF009 Code = "REF009"

	SNP001 Code = "SNP001"
	SNP002 Code = "SNP002"
	SNP003 Code = "SNP003"
	SNP004 Code = "SNP004"
	SNP005 Code = "SNP005"
	SNP006 Code = "SNP006"
	SNP007 Code = "SNP007"
	SNP008 Code = "SNP008"

	BMP001 Code = "BMP001"
	BMP002 Code = "BMP002"
	BMP003 Code = "BMP003"
	BMP004 Code = "BMP004"
	BMP005 Code = "BMP005"
	BMP006 Code = "BMP006"
	BMP007 Code = "BMP007"
	BMP008 Code = "BMP008"

	BMD001 Code = "BMD001"
	BMD002 Code = "BMD002"
	BMD003 Code = "BMD003"
	BMD004 Code = "BMD004"
	BMD005 Code = "BMD005"
	BMD006 Code = "BMD006"
	BMD007 Code = "BMD007"
	BMD008 Code = "BMD008"
	BMD009 Code = "BMD009"
	BMD010 Code = "BMD010"
	BMD011 Code = "BMD011"
	BMD012 Code = "BMD012"
	BMD013 Code = "BMD013"
	BMD014 Code = "BMD014"
	BMD015 Code = "BMD015"

	BMT001 Code = "BMT001"
	BMT002 Code = "BMT002"
	BMT003 Code = "BMT003"
	BMT004 Code = "BMT004"
	BMT005 Code = "BMT005"
	BMT006 Code = "BMT006"

	BMX001 Code = "BMX001"
	BMX002 Code = "BMX002"
	BMX003 Code = "BMX003"

	CRY001 Code = "CRY001"
	CRY002 Code = "CRY002"
	CRY003 Code = "CRY003"

	DAT001 Code = "DAT001"
	DAT002 Code = "DAT002"
	DAT003 Code = "DAT003"

	CHN001 Code = "CHN001"
	CHN002 Code = "CHN002"
	CHN003 Code = "CHN003"
	CHN004 Code = "CHN004"
	CHN005 Code = "CHN005"
	CHN006 Code = "CHN006"

	OPN001 Code = "OPN001"

	IOE001 Code = "IOE001"
	LIM001 Code = "LIM001"
)

// Unknown tells of the codes of a version or a feature that is not known, so that
// nothing else that is found can be relied on.
func (c Code) Unknown() bool { return c == HDR002 || c == HDR005 }

// Unsupported tells of the codes of what the image may hold in good order for later
// software: see [VerdictUnsupported].
func (c Code) Unsupported() bool { return c.Unknown() || c.reserved() }

// reserved tells of the codes of what the format keeps for later versions: QEMU refuses
// it, and it may be sound for who knows it.
func (c Code) reserved() bool { return c == BMP004 || c == BMD010 }

// AboutBitmaps tells of the codes of bitmaps: extension, directory, tables and data.
func (c Code) AboutBitmaps() bool { return strings.HasPrefix(string(c), "BM") }
