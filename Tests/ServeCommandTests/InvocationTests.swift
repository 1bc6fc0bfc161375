import BorgFormat
import Testing

@testable import ServeCommand

@Suite struct `The command line` {
  @Test func `called borg without a command it prints the help, called anything else it serves`() {
    #expect(parse([], as: "borg") == .printed(Help.text))
    #expect(parse(["--info"], as: "/usr/bin/borg") == .printed(Help.text))
    #expect(parse([], as: "borg-serve").options == ServeOptions())
    #expect(parse(["--info"], as: "/opt/borg-2/borg-serve").options?.logLevel == .info)
    #expect(Invocation.parse(arguments: []) { _ in nil } == .serve(ServeOptions()))
  }

  @Test(arguments: ["borg", "borg-serve"])
  func `the word serve may be left out where an option of serve is given`(program: String) throws {
    let options = try #require(parse(["--restrict-to-path", "/x", "-v"], as: program).options)
    #expect(options.restrictToPaths == [Array("/x".utf8)])
    #expect(options.logLevel == .info)
  }

  @Test func `the words serve and everything around it add up in one order`() throws {
    let words = ["--restrict-to-path", "/a", "--debug", "serve", "--restrict-to-path=/b", "--error"]
    let options = try #require(parse(words, as: "borg-serve").options)
    #expect(options.restrictToPaths == [Array("/a".utf8), Array("/b".utf8)])
    #expect(options.logLevel == .error)
  }

  @Test func `a word that is no option is an error, and named`() {
    #expect(
      parse(["create", "--foo"]).error == "borg-serve: error: unknown command 'create': there is only serve\n"
    )
    #expect(parse(["serve", "x", "y"]).error == "borg-serve: error: unrecognized arguments: x and 1 more\n")
    #expect(parse(["--socket", "serve"], as: "borg-serve").error?.contains("took the word serve") == true)
  }

  @Test(arguments: ["--version", "-V"])
  func `the version comes before the command only`(option: String) {
    #expect(parse([option, "serve"]) == .printed(Version.line + "\n"))
    #expect(parse([option], as: "borg-serve") == .printed(Version.line + "\n"))
    #expect(parse(["serve", option]).error == "borg-serve: error: unrecognized arguments: \(option)\n")
  }

  @Test func `paths are bytes and need not be UTF-8`() throws {
    let path: [UInt8] = [0x2f, 0xff, 0xc3, 0x28, 0x0a]
    let words: [[UInt8]] = [
      Array("serve".utf8), Array("--restrict-to-path".utf8), path, Array("--socket=".utf8) + path,
      Array("--restrict-to-repository=".utf8) + path,
    ]
    let options = try #require(parse(bytes: words).options)
    #expect(options.restrictToPaths == [path])
    #expect(options.restrictToRepositories == [path])
    #expect(options.socket == .path(path))
  }

  @Test func `options of Borg 1 are understood`() throws {
    let words = [
      "serve", "--append-only", "--storage-quota", "1.5T", "--remote-ratelimit", "5", "--remote-buffer=6",
      "--consider-part-files",
    ]
    let options = try #require(parse(words).options)
    #expect(options.appendOnly)
    #expect(options.storageQuota == 1_500_000_000_000)
    #expect(options.warnings.isEmpty)
    #expect(parse(["serve", "--bypass-lock"]).error?.contains("--bypass-lock") == true)
  }

  @Test func `options of later betas are understood`() throws {
    let options = try #require(parse(["--cockpit", "serve", "--rest", "--backend", "FILE:/x"]).options)
    #expect(options.rest)
    #expect(options.backend == Array("FILE:/x".utf8))
    #expect(options.warnings == ["--cockpit is ignored: a server has no user interface"])
    #expect(parse(["--config", "/etc/borg.yaml", "serve"]).error?.contains("not read") == true)
  }

  @Test func `what was given in vain is said, BORG_REPO is not`() throws {
    let words = ["serve", "-r", "ssh://", "--debug-profile", "/tmp/p", "--rsh", "x"]
    let options = try #require(parse(words, environment: ["BORG_REPO": "nonsense:::"]).options)
    #expect(options.warnings.count == 2)
    #expect(options.warnings.allSatisfy { !$0.contains("\n") })
  }

  @Test(arguments: [
    ("--a", "append-only"), ("--st=5G", "storage-quota"), ("--rem=x", "remote-path"),
    ("--remote-r=1", "rate"),
    ("--restrict-to-r=/x", "repositories"), ("--perm=all", "permissions"), ("--ba=x", "backend"),
    ("--rest", "rest"),
    ("--i", "info"), ("--lock=3", "lock"), ("--debug-t=x", "topic"), ("--so=/x", "socket"),
    ("--conf=x", "config"),
  ])
  func `an abbreviation that any version knows is known`(word: String, meaning: String) {
    #expect(parse(["serve", word]).error?.contains("ambiguous") != true, "\(meaning)")
  }

  @Test(arguments: ["--b", "--r", "--re", "--rest=", "--restrict", "--lo", "--show", "--", "--=x"])
  func `what is ambiguous everywhere, or means two things, is an error`(word: String) {
    #expect(parse(["serve", word, "x"]).error != nil)
  }

  @Test func `before the command an abbreviation is first of all one of the common options`() {
    #expect(parse(["--re", "x", "serve"]).options?.warnings.count == 1)
    #expect(parse(["serve", "--re", "x"]).error?.contains("--restrict-to-path") == true)
  }

  @Test(arguments: [
    "--lock-wait", "--umask", "--socket", "--repo", "--rsh", "--remote-path", "--upload-ratelimit",
    "--upload-buffer",
    "--debug-profile", "--max-connections", "--idle-timeout",
  ])
  func `there can be only one of some options, at each level`(option: String) {
    #expect(parse(["\(option)=1", "serve", "\(option)=1"]).options != nil)
    #expect(
      parse(["serve", "\(option)=1", "\(option)=1"]).error
        == "borg-serve: error: argument \(option): There can be only one.\n")
  }
}

@Suite struct `Values of options` {
  @Test(arguments: [
    ("0", 0 as UInt64), ("0.5", 0), ("10M", 10_000_000), ("10000000", 10_000_000), ("10000K", 10_000_000),
    ("5G", 5_000_000_000), ("1.5T", 1_500_000_000_000), ("2P", 2_000_000_000_000_000),
    ("1e3M", 1_000_000_000),
    ("12345678.9", 12_345_678), (" 5G", 5_000_000_000), ("5 G", 5_000_000_000), ("1e300P", .max),
  ])
  func `a quota is read as by Borg 1.4`(text: String, bytes: UInt64) {
    #expect(parse(["serve", "--storage-quota", text]).options?.storageQuota == bytes)
  }

  @Test(arguments: [
    "", "G", "1", "9999999", "9.9M", "-5G", "5g", "5GB", "5X", "nan", "inf", "infG", "0x10M", "1_0M", "5G ",
  ])
  func `what is no quota for Borg 1.4 is an error`(text: String) {
    #expect(parse(["serve", "--storage-quota=\(text)"]).error?.contains("--storage-quota") == true)
  }

  @Test func `connections and idle time are numbers in their bounds`() throws {
    let none = try #require(parse(["serve", "--socket"]).options)
    #expect(none.maxConnections == nil && none.idleTimeout == 0)
    let words = ["serve", "--socket", "--max-connections=5", "--idle-timeout", "600"]
    let given = try #require(parse(words).options)
    #expect(given.maxConnections == 5 && given.idleTimeout == 600 && given.warnings == [])
    #expect(parse(["serve", "--max-connections=5"]).options?.warnings.count == 1)
    #expect(parse(["serve", "--idle-timeout=0"]).options?.idleTimeout == 0)
    for bad in ["0", "-1", "10001", "x", ""] {
      #expect(parse(["serve", "--max-connections=\(bad)"]).error?.contains("--max-connections") == true)
    }
    for bad in ["-1", "1000000001", "1.5", ""] {
      #expect(parse(["serve", "--idle-timeout=\(bad)"]).error?.contains("--idle-timeout") == true)
    }
  }

  @Test(arguments: ["--max-connection=5", "--max=5", "--idle-t=5", "--idle=5", "--m=5"])
  func `options of our own cannot be cut short`(word: String) {
    #expect(parse(["serve", word]).error?.contains("unrecognized arguments: \(word)") == true)
  }

  @Test func `numbers beyond the machine's do not overflow`() {
    let digits = String(repeating: "9", count: 5000)
    #expect(parse(["serve", "--lock-wait", digits]).options?.lockWait == .max)
    #expect(parse(["serve", "--lock-wait", "-" + digits]).options?.lockWait == -.max)
    #expect(parse(["serve", "--umask", digits]).error != nil)
    #expect(parse(["serve", "--umask", "77777777777777777777777"]).error != nil)
  }

  @Test func `a mask keeps its nine bits`() {
    #expect(parse(["serve", "--umask", "1022"]).options?.umask == 0o022)
    #expect(parse(["serve", "--umask=-1"]).error != nil)
  }

  @Test func `the lock wait is preset by the environment, which has to be a number`() {
    #expect(parse(["serve"], environment: ["BORG_LOCK_WAIT": "7"]).options?.lockWait == 7)
    #expect(parse(["serve", "--lock-wait=3"], environment: ["BORG_LOCK_WAIT": "7"]).options?.lockWait == 3)
    for bad in ["", "x", "1.5"] {
      let error = parse(["serve", "--lock-wait=3"], environment: ["BORG_LOCK_WAIT": bad]).error
      #expect(error == "borg-serve: error: BORG_LOCK_WAIT: invalid int value: '\(bad)'\n")
    }
  }

  @Test func `weakness 24: what the account's environment or files say never widens the command line`() {
    let grants = ["BORG_SERVE__PERMISSIONS": "all", "BORG_SERVE__USE_SOCKET": "true", "BORG_CONFIG": "/x"]
    let words = ["serve", "--permissions=read-only", "--restrict-to-path", "/srv/a"]
    #expect(parse(words, environment: grants) == parse(words))
    for variable in ["BORG_SERVE__RESTRICT_TO_PATHS", "BORG_SERVE__RESTRICT_TO_REPOSITORIES"] {
      #expect(parse(words, environment: [variable: #"["/"]"#]).error?.contains(variable) == true)
    }
    #expect(parse(["--config", "/home/borg/default.yaml"] + words).error?.contains("not read") == true)
  }

  @Test func `permissions of b21's environment count, its lists stop the start`() {
    let readOnly = ["BORG_SERVE__PERMISSIONS": "read-only"]
    #expect(parse(["serve"], environment: readOnly).options?.permissions == .readOnly)
    #expect(parse(["serve", "--permissions=all"], environment: readOnly).options?.permissions == .all)
    #expect(parse(["serve"], environment: ["BORG_SERVE__PERMISSIONS": ""]).error != nil)
    #expect(parse(["serve"], environment: ["BORG_SERVE__RESTRICT_TO_PATHS": #"["/p"]"#]).error != nil)
    #expect(parse(["serve"], environment: ["BORG_SERVE__RESTRICT_TO_PATHS": "[]"]).options != nil)
  }

  @Test func `an error is one line, and shows foreign text short and without control characters`() throws {
    let word =
      Array("--bogus\u{1b}[2J\n\u{202e}\u{9b}\u{2028}ü".utf8) + [0xff] + [UInt8](repeating: 0x41, count: 99)
    let error = try #require(parse(bytes: [Array("serve".utf8), word]).error)
    #expect(
      error.hasPrefix(
        "borg-serve: error: unrecognized arguments: --bogus\\u{1b}[2J\\u{a}\\u{202e}\\u{9b}\\u{2028}ü\u{fffd}AAA"
      ))
    #expect(error.hasSuffix("A...\n"))
    #expect(error.count < 160)
  }
}
