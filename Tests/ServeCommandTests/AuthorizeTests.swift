import BorgFormat
import TestKit
import Testing

@testable import ServeCommand

private let key = "ssh-ed25519 \(KeyFixtures.ed25519) alice@laptop"
private let executable = Array("/usr/local/bin/borg-serve".utf8)

private func authorize(_ words: String...) -> Invocation {
  parse(["authorize"] + words, as: "borg-serve")
}

private func line(_ words: [[UInt8]], key text: String = key) throws -> [UInt8] {
  let invocation = parse(bytes: [Array("authorize".utf8)] + words + [Array("-".utf8)], as: "borg-serve")
  let options = try #require(invocation.authorize, "\(invocation)")
  return try options.line(publicKey: Array(text.utf8), executable: executable)
}

/// What sshd makes of a line: the forced command, the options behind it, and the key.
///
/// Written from what `misc.c` `opt_dequote` and `authfile.c` `sshkey_advance_past_options` do.
private func readAsSSHD(_ line: [UInt8]) -> (command: [UInt8], options: String, key: String)? {
  let start = Array(#"command=""#.utf8)
  guard line.starts(with: start) else { return nil }
  var rest = line[start.count...]
  var command: [UInt8] = []
  while let byte = rest.first, byte != UInt8(ascii: "\"") {
    let isEscape = byte == UInt8(ascii: "\\") && rest.dropFirst().first == UInt8(ascii: "\"")
    rest = rest.dropFirst(isEscape ? 1 : 0)
    guard let next = rest.popFirst() else { return nil }
    command.append(next)
  }
  guard rest.popFirst() != nil, let space = rest.firstIndex(of: 0x20) else { return nil }
  return (
    command, String(decoding: rest[..<space], as: UTF8.self),
    String(decoding: rest[(space + 1)...], as: UTF8.self)
  )
}

extension Invocation {
  fileprivate var authorize: AuthorizeOptions? {
    if case .authorize(let options) = self { options } else { nil }
  }
}

@Suite struct `A line for authorized_keys` {
  @Test func `is the forced command, the directive restrict, and the key`() throws {
    let words = ["--restrict-to-repository", "/srv/borg/alice/repo", "--permissions=no-delete"]
    #expect(
      String(decoding: try line(words.map { Array($0.utf8) }), as: UTF8.self)
        == "command=\"/usr/local/bin/borg-serve serve --restrict-to-repository '/srv/borg/alice/repo'"
        + " --permissions=no-delete\",restrict \(key)")
  }

  @Test func `has every restriction, paths first`() throws {
    let words = [
      "--restrict-to-repository=/a//b/", "--permissions", "read-only", "--restrict-to-path", "/c d",
      "--program=/opt/borg serve/bin/x", "--restrict-to-repository=/e",
    ]
    let read = try #require(readAsSSHD(try line(words.map { Array($0.utf8) })))
    #expect(
      String(decoding: read.command, as: UTF8.self)
        == "'/opt/borg serve/bin/x' serve --restrict-to-path '/c d' --restrict-to-repository '/a/b'"
        + " --restrict-to-repository '/e' --permissions=read-only")
  }

  @Test func `without a restriction has to be asked for`() throws {
    #expect(authorize("k.pub").error?.contains("--unrestricted") == true)
    #expect(authorize("--permissions=read-only", "k.pub").error?.contains("--unrestricted") == true)
    #expect(
      authorize("--unrestricted", "--restrict-to-path=/a", "k.pub").error?.contains("contradicts") == true)
    let read = try #require(readAsSSHD(try line([Array("--unrestricted".utf8)])))
    #expect(read.command == executable + Array(" serve".utf8))
  }

  @Test(arguments: [
    "/x", "/with space", "/tab", "/it's", "/'", "/''", "/\"", "/\\", "/\\\"", "/\\\\\"", "/\"\\", "/\\'",
    "/$HOME",
    "/$(reboot)", "/`reboot`", "/!!", "/a;b", "/a&b", "/a|b", "/a>b", "/*", "/?", "/[a]", "/~", "/~root",
    "/{a,b}", "/#",
    "/%h", "/%%", "/=", "/-", "/--x", "/a,restrict", "/\" ssh-rsa", "/\",command=\"sh", "/ü", "/日本", "/ ",
    "/a\u{a0}b",
  ])
  func `comes back from sshd and the shell as the same words`(path: String) throws {
    try expectRoundTrip(Array(path.utf8))
  }

  @Test(
    arguments: [
      [0x2f, 0xff], [0x2f, 0xc3, 0x28], [0x2f, 0x80, 0x27], [0x2f, 0xe2, 0x22, 0x5c], [0x2f, 0x9b, 0x5c],
    ] as [[UInt8]])
  func `keeps bytes that are no UTF-8`(path: [UInt8]) throws {
    try expectRoundTrip(path)
  }

  @Test(arguments: 0..<8 as Range<UInt64>)
  func `comes back as the same words for any path`(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let favourites = Array("'\"\\ $`!*,=#~-/ab".utf8)
    for _ in 0..<300 {
      var path: [UInt8] = [0x2f, 0x78]
      for _ in 0..<Int.random(in: 0...12, using: &random) {
        let byte = Bool.random(using: &random) ? favourites.randomElement(using: &random) : nil
        path.append(byte ?? UInt8.random(in: 0x20...0x7e, using: &random))
      }
      // What cannot be kept has tests of its own.
      guard let normalized = try? ForcedPath.normalized(path) else { continue }
      try expectRoundTrip(normalized)
    }
  }

  private func expectRoundTrip(_ path: [UInt8]) throws {
    for option in ["--restrict-to-path", "--restrict-to-repository"] {
      let name = Array(option.utf8)
      for words in [[name, path], [name + [0x3d] + path]] {
        let program = Array("--program=".utf8) + path
        let read = try #require(readAsSSHD(try line(words + [program])))
        #expect(read.options == ",restrict")
        #expect(read.key == key)
        #expect(try ShellWords.split(read.command) == [path, Array("serve".utf8), name, path])
      }
    }
  }

  @Test func `is refused where sshd would not read all of it`() throws {
    let long = Array("/".utf8) + [UInt8](repeating: 0x78, count: 4000)
    let option = Array("--restrict-to-path".utf8)
    _ = try line([option, long])
    #expect(throws: RefusedKey.self) { try line([option, long, option, long, option, long]) }
    let quotes = Array("/".utf8) + [UInt8](repeating: 0x27, count: 3000)
    #expect(throws: RefusedKey.self) { try line([option, quotes]) }
    let path = { (count: Int) in Array("/".utf8) + [UInt8](repeating: 0x78, count: count - 1) }
    let shortest = try line([option, long, option, path(2)]).count
    let room = AuthorizeOptions.lineLimit - shortest + 2
    #expect(try line([option, long, option, path(room)]).count == AuthorizeOptions.lineLimit)
    #expect(throws: RefusedKey.self) { try line([option, long, option, path(room + 1)]) }
  }

  @Test func `needs to know where the program is`() throws {
    let options = try #require(authorize("--unrestricted", "-").authorize)
    for unknown in [nil, Array("/a/../b".utf8), Array("/a\nb".utf8)] as [[UInt8]?] {
      #expect(throws: RefusedKey.self) { try options.line(publicKey: Array(key.utf8), executable: unknown) }
    }
  }

  @Test func `is not made for a value that sshd could not read`() {
    #expect(ShellQuoting.authorizedKeysValue(Array(#"a\"#.utf8)) == nil)
    #expect(ShellQuoting.authorizedKeysValue(Array(#"a\"b"#.utf8)) == Array(#""a\\"b""#.utf8))
  }
}

@Suite struct `The command authorize` {
  @Test func `takes one file, or standard input`() {
    #expect(authorize("--unrestricted", "k.pub").authorize?.keyFile == Array("k.pub".utf8))
    #expect(authorize("k.pub", "--unrestricted").authorize?.keyFile == Array("k.pub".utf8))
    #expect(authorize("--unrestricted", "-").authorize?.keyFile == .some(nil))
    #expect(authorize("--unrestricted", "--", "-x").authorize?.keyFile == Array("-x".utf8))
    for words in [[], ["a", "b"], [""], ["--", "a", "b"]] {
      #expect(parse(["authorize", "--unrestricted"] + words).error?.contains("one file") == true)
    }
  }

  @Test(arguments: [
    "", "x", "./x", "../x", "~", "~/x", "/.", "/..", "/a/../b", "/a/./b", "/a/..", "/\n", "/a\u{0}", "/a\tb",
    "/\u{1b}[2J",
    "/a\u{7f}", "/a\u{9b}", "/" + String(repeating: "x", count: 4095),
  ])
  func `takes absolute paths without dots and controls`(path: String) {
    for option in ["--restrict-to-path", "--restrict-to-repository", "--program"] {
      let error = authorize("\(option)=\(path)", "--restrict-to-path=/a", "k.pub").error
      #expect(error?.hasPrefix("borg-serve: error: authorize: argument \(option)") == true)
      #expect(error?.dropLast().unicodeScalars.contains { $0.value < 0x20 } == false)
    }
  }

  @Test func `does not take the root for a restriction`() {
    #expect(authorize("--restrict-to-path=/", "k").error?.contains("restricts nothing") == true)
    #expect(authorize("--restrict-to-repository=//", "k").error?.contains("restricts nothing") == true)
  }

  @Test(arguments: Permissions.allCases)
  func `takes each mode, once, and no other word`(mode: Permissions) {
    #expect(authorize("--permissions", mode.rawValue, "--unrestricted", "k").authorize?.permissions == mode)
    let twice = authorize("--permissions=\(mode.rawValue)", "--permissions=all", "--unrestricted", "k")
    #expect(twice.error?.contains("There can be only one") == true)
    for word in ["", "ALL", "no-del", "\(mode.rawValue) "] {
      #expect(
        authorize("--permissions=\(word)", "--unrestricted", "k").error?.contains("invalid choice") == true)
    }
  }

  @Test(arguments: [
    "--bogus", "-x", "--restrict-to-pat=/a", "--socket=/s", "--unrestricted=yes", "--program",
  ])
  func `knows its own options only, and no abbreviations`(option: String) {
    #expect(
      authorize("--restrict-to-path=/a", "k", option).error?.hasPrefix("borg-serve: error: authorize") == true
    )
  }

  @Test func `has a help of its own`() {
    #expect(authorize("--help") == .printed(Help.authorize))
    #expect(authorize("--unrestricted", "-h") == .printed(Help.authorize))
    for option in AuthorizeOption.allCases { #expect(Help.authorize.contains(option.rawValue)) }
    #expect(Help.authorize.split(separator: "\n").allSatisfy { $0.count <= 79 })
  }

  @Test func `is the first word or none`() {
    #expect(parse(["--info", "authorize", "k"]).error?.contains("first word") == true)
    #expect(parse(["--restrict-to-path=/a", "authorize", "--unrestricted", "-"]).authorize == nil)
    #expect(parse(["serve", "authorize"]).error != nil)
  }

  @Test(arguments: [
    "borg-serve authorize --unrestricted -", "borg authorize --unrestricted -", "borg authorize", "authorize",
    "authorize authorize --unrestricted -", "X=1 borg-serve authorize --unrestricted /etc/passwd",
    "borg --info authorize -", "borg serve authorize", "borg-serve authorize --help",
  ])
  func `cannot be had by a client`(original: String) {
    for words in [["serve"], ["serve", "--restrict-to-path=/a"], [], ["--info"]] {
      let invocation = parse(words, as: "borg-serve", original: original)
      #expect(invocation.error?.hasPrefix("borg-serve: error: this key runs borg serve only") == true)
    }
  }

  @Test func `does not look at what a client asked for`() {
    let words = ["authorize", "--restrict-to-path=/a", "k"]
    #expect(parse(words, original: "borg serve --permissions=all") == parse(words))
  }
}
