import BorgFormat
import TestKit
import Testing

@testable import ServeCommand

private let forced = [
  "--umask=027", "--socket=/forced", "serve", "--debug", "--debug-topic=forced", "--lock-wait=77",
  "--restrict-to-path=/jail", "--restrict-to-repository=/jail/r", "--permissions=no-delete", "--append-only",
  "--storage-quota=5G", "--show-version",
]

/// The options without what a client may change.
private func grant(_ options: ServeOptions) -> ServeOptions {
  var grant = options
  grant.logLevel = .warning
  grant.debugTopics = []
  grant.lockWait = 10
  return grant
}

@Suite struct `The client's original command` {
  @Test func `log level, topics and lock wait come from the client, also by their defaults`() throws {
    let set = try #require(
      parse(forced, original: "X=1 borg --info serve --debug-topic repository --lock-wait 5").options)
    #expect(set.logLevel == .info)
    #expect(set.debugTopics == ["borg.debug.repository"])
    #expect(set.lockWait == 5)
    let unset = try #require(parse(forced, original: "borg serve").options)
    #expect(unset.logLevel == .warning)
    #expect(unset.debugTopics == [])
    #expect(unset.lockWait == 10)
    let preset = parse(forced, original: "borg serve", environment: ["BORG_LOCK_WAIT": "8"])
    #expect(preset.options?.lockWait == 8)
  }

  @Test(arguments: [
    "--permissions=all", "--restrict-to-path=/", "--restrict-to-repository=/etc", "--umask=0",
    "--socket=/tmp/x",
    "--storage-quota=0", "--append-only", "--rest --backend FILE:/etc", "--backend FILE:/etc", "--show-rc",
    "--log-json", "--repo /x", "--debug-profile /etc/passwd", "--cockpit", "--bypass-lock",
  ])
  func `nothing else does`(words: String) throws {
    let alone = try #require(parse(forced).options)
    for original in ["borg serve \(words)", "borg \(words) serve", "borg serve \(words) \(words)"] {
      let invocation = parse(forced, original: original)
      guard let options = invocation.options else {
        #expect(invocation.error != nil)
        continue
      }
      var granted = grant(options)
      granted.warnings = []
      #expect(granted == grant(alone), "\(original)")
    }
  }

  @Test func `environment words are dropped, not interpreted`() {
    let options = parse(["serve"], original: "BORG_LOCK_WAIT=3 BORG_REPO_PERMISSIONS=all borg serve").options
    #expect(options == ServeOptions())
  }

  @Test(arguments: [
    "", " \t\n", "A=1", "borg", "borg-serve", "internal-sftp", "/usr/lib/openssh/sftp-server", "borg --help",
    "borg -h",
    "borg --version", "borg serve --help", "borg create --help", "borg --info", "borg --restrict-to-path /",
    "scp -t x",
    "sh -c 'borg serve'", "borg serve 'x", "borg serve \\", "borg serve\u{0} x", "rsync --server . /",
  ])
  func `W22: what is no borg command ends with one line on standard error`(original: String) throws {
    for words in [forced, ["serve"], ["serve", "--rest"]] {
      let error = try #require(parse(words, original: original).error)
      #expect(error.hasPrefix("borg-serve: error: this key runs borg serve only"))
      #expect(error.hasSuffix("\n"))
      #expect(!error.dropLast().unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x7f })
    }
  }

  @Test func `the line says what was refused and why`() {
    #expect(
      parse(forced, original: "scp -t x").error
        == "borg-serve: error: this key runs borg serve only; refused 'scp -t x': unrecognized arguments: -t\n"
    )
    #expect(
      parse(forced, original: "").error
        == "borg-serve: error: this key runs borg serve only; no command was asked for\n")
  }

  @Test(arguments: ["borg create r::a x", "borg list", "borg --info check --repair", "BORG_X=1 borg help"])
  func `another borg command leaves the forced options as they are`(original: String) {
    #expect(parse(forced, original: original) == parse(forced))
  }

  @Test func `help is printed only for the program's own command line`() {
    #expect(parse(["serve", "--help"], original: "borg serve") == .printed(Help.text))
    #expect(parse([], original: "borg serve").error?.contains("lacks a command") == true)
    #expect(parse(["--info"], original: "borg serve").error?.contains("lacks a command") == true)
    #expect(parse([], as: "borg-serve", original: "borg serve --info").options?.logLevel == .info)
  }

  @Test func `a backend is taken over only where the forced command has rest and names none`() {
    let original = "borg serve --rest --backend FILE:/r"
    #expect(parse(["serve", "--rest"], original: original).options?.backend == Array("FILE:/r".utf8))
    #expect(parse(["serve", "--rest"], original: "borg serve --backend=FILE:/r").options?.rest == true)
    #expect(
      parse(["serve", "--rest", "--backend=FILE:/f"], original: original).options?.backend
        == Array("FILE:/f".utf8))
    let without = parse(["serve"], original: original).options
    #expect(without?.rest == false)
    #expect(without?.backend == nil)
    #expect(without?.warnings.count == 1)
  }

  @Test func `a forced command that cannot be used is the error, whatever the client wants`() {
    #expect(
      parse(["serve", "--bogus"], original: "borg serve").error
        == "borg-serve: error: unrecognized arguments: --bogus\n")
  }

  @Test func `commands up to 64 KiB are read, longer ones refused`() {
    let limit = OriginalCommand.sizeLimit
    let start = "borg serve --debug-topic="
    let longest = start + String(repeating: "x", count: limit - start.utf8.count)
    #expect(parse(forced, original: longest).options != nil)
    #expect(parse(forced, original: longest + "x").error?.contains("longer than 65536 bytes") == true)
  }
}

@Suite struct `Hostile input` {
  private static let fragments = [
    "borg", "serve", " ", " ", " ", "'", "\"", "\\", "=", "--", "-", "--restrict-to-path", "--permissions",
    "all",
    "--socket", "--lock-wait", "5", "--info", "-v", "-r", "--rest", "--backend", "--debug-topic", "--umask",
    "0",
    "--help", "-V", "create", "\n", "\t", "--res", "--lo", "X=1", "\u{1b}", "é",
  ]

  private static func text(_ random: inout SeededGenerator) -> [UInt8] {
    var bytes: [UInt8] = []
    for _ in 0..<Int.random(in: 0...12, using: &random) {
      if Int.random(in: 0..<5, using: &random) == 0 {
        bytes.append(UInt8.random(in: 1...255, using: &random))
      } else if let fragment = fragments.randomElement(using: &random) {
        bytes += Array(fragment.utf8)
      }
    }
    return bytes
  }

  @Test(arguments: 0..<8 as Range<UInt64>)
  func `whatever the client asks for, nothing is printed and nothing more is granted`(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let alone = try #require(parse(forced).options)
    for _ in 0..<400 {
      let prefix = Bool.random(using: &random) ? Array("borg serve ".utf8) : []
      let original = prefix + Self.text(&random)
      switch parse(bytes: forced.map { Array($0.utf8) }, original: original) {
      case .printed: Issue.record("seed \(seed): printed for \(original)")
      case .authorize: Issue.record("seed \(seed): authorize for \(original)")
      case .usageError(let line): #expect(Self.isOneLine(line), "seed \(seed): \(original)")
      case .serve(let options):
        var granted = grant(options)
        granted.warnings = []
        #expect(granted == grant(alone), "seed \(seed): \(original)")
      }
    }
  }

  @Test(arguments: 0..<8 as Range<UInt64>)
  func `any arguments at all are read without a crash, and errors are one line`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<400 {
      let words = (0..<Int.random(in: 0...6, using: &random)).map { _ in Self.text(&random) }
      if let line = parse(bytes: words, as: "borg-serve").error {
        #expect(Self.isOneLine(line), "seed \(seed): \(words)")
      }
    }
  }

  @Test func `a long original command of nothing but quotes or options is read in time`() {
    for unit in ["'", "\"", "\\", "''", "-", " ", "a ", "--v ", "=", "-v", "--debug-topic=x "] {
      let body = String(repeating: unit, count: OriginalCommand.sizeLimit / unit.utf8.count - 16)
      _ = parse(forced, original: "borg serve " + body)
    }
  }

  private static func isOneLine(_ line: String) -> Bool {
    line.hasSuffix("\n") && line.utf8.count < 2000
      && !line.dropLast().unicodeScalars.contains { $0.value < 0x20 || (0x7f...0x9f).contains($0.value) }
  }
}
