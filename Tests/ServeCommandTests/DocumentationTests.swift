import BorgFormat
import SystemPackage
import Testing

@testable import ServeCommand

/// What is in a file of this checkout.
private func text(of path: String) throws -> String {
  var root = FilePath(#filePath)
  // Tests/ServeCommandTests/DocumentationTests.swift
  for _ in 0..<3 { root.removeLastComponent() }
  let file = try FileDescriptor.open(root.pushing(FilePath(path)), .readOnly)
  return try file.closeAfter {
    var bytes: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = try unsafe block.withUnsafeMutableBytes { try unsafe file.read(into: $0) }
      guard count > 0 else { break }
      bytes += block.prefix(count)
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}

/// Whether a word stands in a text on its own, not as a part of a longer one.
private func contains(_ text: String, word: String) -> Bool {
  let isPart = { (character: Character) in character.isLetter || character.isNumber || character == "-" }
  return text.ranges(of: word).contains { range in
    let before = range.lowerBound > text.startIndex ? text[text.index(before: range.lowerBound)] : " "
    let after = range.upperBound < text.endIndex ? text[range.upperBound] : " "
    return !isPart(before) && !isPart(after)
  }
}

@Suite struct `What is written about the options` {
  /// Options that do nothing, or are refused, and whose names nobody should be helped to type.
  private static let uncompleted: Set<Option> = [
    .progress, .iec, .logJSON, .bypassLock, .showRC, .remotePath, .remoteRateLimit, .uploadRateLimit,
    .remoteBuffer, .uploadBuffer, .considerPartFiles, .debugProfile, .rsh, .repo, .cockpit, .config,
  ]

  private static let completed = OptionDefinition.table.filter { !uncompleted.contains($0.option) }

  @Test func `the help and the README name every option`() throws {
    let readme = try text(of: "README.md")
    for name in OptionDefinition.table.flatMap(\.names) {
      #expect(contains(Help.text, word: name), "--help lacks \(name)")
      #expect(readme.contains("`\(name)") || readme.contains("/\(name)"), "README.md lacks \(name)")
    }
  }

  @Test func `the man page has an item for every option`() throws {
    let page = try text(of: "man/borg-serve.1")
    let items = page.split(separator: "\n").filter { $0.hasPrefix(".It Fl ") }.joined(separator: "\n")
    let names = OptionDefinition.table.flatMap(\.names) + AuthorizeOption.allCases.flatMap(\.names)
    for name in names {
      // The macro writes the first dash.
      #expect(
        items.contains("Fl \(name.dropFirst())\n") || items.contains("Fl \(name.dropFirst()) "), "\(name)")
    }
    for mode in Permissions.allCases {
      #expect(page.contains("\n.It Cm \(mode.rawValue)\n"), "\(mode.rawValue)")
    }
  }

  @Test(arguments: ["completions/borg-serve.bash", "completions/_borg-serve"])
  func `bash and zsh complete every option that does something`(path: String) throws {
    let script = try text(of: path)
    for name in Self.completed.flatMap(\.names) + AuthorizeOption.allCases.flatMap(\.names) {
      #expect(contains(script, word: name), "\(path) lacks \(name)")
    }
    for mode in Permissions.allCases { #expect(contains(script, word: mode.rawValue)) }
    for command in ["serve", "authorize"] { #expect(contains(script, word: command)) }
  }

  @Test func `fish does so, too`() throws {
    let script = try text(of: "completions/borg-serve.fish")
    for name in Self.completed.flatMap(\.names) + AuthorizeOption.allCases.flatMap(\.names) {
      let option = name.hasPrefix("--") ? "-l \(name.dropFirst(2)) " : "-s \(name.dropFirst()) "
      #expect(script.contains(option), "lacks \(name)")
    }
    for mode in Permissions.allCases { #expect(script.contains("\(mode.rawValue)\\t")) }
  }

  @Test(arguments: ["completions/borg-serve.bash", "completions/_borg-serve", "completions/borg-serve.fish"])
  func `completions offer no option that does nothing`(path: String) throws {
    let script = try text(of: path)
    let hidden = OptionDefinition.table.filter { Self.uncompleted.contains($0.option) }.flatMap(\.names)
    // Bash names some of them to complete their values; `listen` has a --config of its own, which is -c too.
    let others = ["serve:--", "listen", "--check-config", "(-c --config)"]
    let offered = script.split(separator: "\n").filter { line in !others.contains { line.contains($0) } }
      .joined(separator: "\n")
    for name in hidden where name.hasPrefix("--") {
      #expect(!contains(offered, word: name) && !offered.contains("-l \(name.dropFirst(2)) "), "\(name)")
    }
  }
}

@Suite struct `What is written about the original's weaknesses` {
  @Test func `each has a test that carries its number, in the place that the page names`() throws {
    let page = try text(of: "docs/man-page.md")
    let rows = page.split(separator: "\n").filter {
      $0.hasPrefix("| ") && $0.contains("`") || $0.contains("sockets")
    }
    let places = [
      "WeaknessTests": "Tests/RPCTests/WeaknessTests.swift",
      "PermissionTests": "Tests/RPCTests/PermissionTests.swift",
      "PosixLayoutTests": "Tests/StorageTests/PosixLayoutTests.swift",
      "CrashTests": "Tests/StorageTests/CrashTests.swift",
      "SessionTests": "Tests/SessionTests/SessionTests.swift",
      "InvocationTests": "Tests/ServeCommandTests/InvocationTests.swift",
      "ConnectionTests": "Tests/SocketServerTests/ConnectionTests.swift",
      "SocketFileTests": "Tests/SocketServerTests/SocketFileTests.swift", "sockets": "conformance/sockets.py",
    ]
    for number in 1...25 {
      let row = try #require(rows.first { $0.hasPrefix("| \(number) |") }, "no row for weakness \(number)")
      let isShown = try places.contains { name, file in
        try row.contains(name) && text(of: file).contains("weakness \(number):")
      }
      #expect(isShown, "\(row)")
    }
  }
}

@Suite struct `What is written about the weaknesses of Borg 1` {
  /// The suites that the table may name. Their tests of a weakness begin with its number: `W7: …`.
  private static let places = [
    "Borg1ProtocolTests": "Tests/RPCTests/Borg1ProtocolTests.swift",
    "Borg1RepositoryTests": "Tests/RPCTests/Borg1RepositoryTests.swift",
    "EngineWeaknessTests": "Tests/SegmentRepositoryTests/EngineWeaknessTests.swift",
    "LockTests": "Tests/SegmentRepositoryTests/LockTests.swift",
    "LockWeaknessTests": "Tests/SegmentRepositoryTests/LockWeaknessTests.swift",
    "OriginalCommandTests": "Tests/ServeCommandTests/OriginalCommandTests.swift",
  ]

  /// Numbers of which a test is still missing in a place that the table names. Has to become empty, and stay so.
  private static let awaited: Set<Int> = []

  /// The numbers with which names of a suite's tests begin; none if there is no such file.
  private static func numbers(in place: String) throws -> Set<Int> {
    let path = try #require(places[place], "the table names \(place), which is no place for such tests")
    guard let source = try? text(of: path) else { return [] }
    return Set(source.matches(of: #/func `W([0-9]+): /#).compactMap { Int($0.1) })
  }

  private static func rows() throws -> [(number: Int, suites: [String])] {
    try text(of: "docs/rpc-borg1.md").split(separator: "\n").compactMap { line in
      guard let match = line.firstMatch(of: #/^\| W([0-9]+) \|/#), let number = Int(match.1),
        let cell = line.split(separator: "|", omittingEmptySubsequences: false).dropLast().last
      else { return nil }
      return (number, cell.matches(of: #/`(\w+Tests)`/#).map { String($0.1) })
    }
  }

  @Test func `the table has each of the 25 once, in order, and a suite for it`() throws {
    let rows = try Self.rows()
    #expect(rows.map(\.number) == Array(1...25))
    for row in rows { #expect(!row.suites.isEmpty, "W\(row.number)") }
  }

  @Test func `each suite that it names has a test whose name begins with the number`() throws {
    for row in try Self.rows() {
      let isShown = try row.suites.allSatisfy { try Self.numbers(in: $0).contains(row.number) }
      #expect(isShown != Self.awaited.contains(row.number), "W\(row.number): \(row.suites)")
    }
  }

  @Test func `no test bears a number for which the table does not name its suite`() throws {
    let rows = try Self.rows()
    for place in Self.places.keys {
      for number in try Self.numbers(in: place) {
        #expect(rows.contains { $0.number == number && $0.suites.contains(place) }, "\(place): W\(number)")
      }
    }
  }
}
