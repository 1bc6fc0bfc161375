import BorgFormat
import Testing

@testable import ServeCommand

@Suite struct `Permissions of a session` {
  @Test(arguments: Permissions.allCases)
  func `the option wins over the environment, even over a bad one`(permissions: Permissions) {
    for value in [nil, "all", "bad", ""] as [String?] {
      let effective = Permissions.effective(option: permissions, environment: value.map { Array($0.utf8) })
      #expect(effective == .success(permissions))
    }
  }

  @Test(arguments: Permissions.allCases)
  func `without the option the environment decides`(permissions: Permissions) {
    let effective = Permissions.effective(option: nil, environment: Array(permissions.rawValue.utf8))
    #expect(effective == .success(permissions))
  }

  @Test func `without either everything is permitted`() {
    #expect(Permissions.effective(option: nil, environment: nil) == .success(.all))
  }

  @Test(arguments: ["", "ALL", "read-only ", "none"])
  func `any other value is an error to answer opens with`(value: String) throws {
    let effective = Permissions.effective(option: nil, environment: Array(value.utf8))
    #expect(
      throws: InvalidPermissions(value: Array(value.utf8))
    ) { try effective.get() }
    let message = InvalidPermissions(value: Array(value.utf8)).message
    #expect(
      message == "Invalid BORG_REPO_PERMISSIONS value: \(value), should be one of: "
        + "all, no-delete, write-only, read-only.")
  }
}

@Suite struct `Exit codes` {
  @Test(arguments: [
    (ExitCode.success, 0, 0), (.failure, 2, 2), (.pathNotAllowed, 83, 2), (.unexpectedMessage, 85, 2),
    (.signal(1), 129, 129), (.signal(2), 130, 130), (.signal(15), 143, 143),
  ])
  func `specific codes are for modern callers`(code: ExitCode, modern: Int32, legacy: Int32) {
    #expect(code.status(modern: true) == modern)
    #expect(code.status(modern: false) == legacy)
  }

  @Test func `callers are modern unless the environment has another word`() {
    #expect(ExitCode.isModern(environment: nil))
    #expect(ExitCode.isModern(environment: Array("modern".utf8)))
    #expect(!ExitCode.isModern(environment: Array("legacy".utf8)))
    #expect(!ExitCode.isModern(environment: []))
  }
}

@Suite struct `What cannot be enforced` {
  @Test func `append-only is refused for Borg 2, not dropped`() {
    var options = ServeOptions()
    #expect(options.refusalOfBorg2 == nil)
    options.appendOnly = true
    #expect(options.refusalOfBorg2?.contains("--append-only") == true)
    options = ServeOptions()
    options.storageQuota = 0
    #expect(options.refusalOfBorg2 == nil)
    options.storageQuota = 10_000_000
    #expect(options.refusalOfBorg2 == nil)
  }
}

@Suite struct `The directory of the default socket` {
  private func candidates(_ environment: [String: String]) -> [RuntimeDirectory] {
    RuntimeDirectory.candidates(userID: 1000) { environment[$0].map { Array($0.utf8) } }
  }

  private func sockets(_ environment: [String: String]) -> [String] {
    candidates(environment).map { String(decoding: $0.socket, as: UTF8.self) }
  }

  @Test func `what the administrator names is used, whatever it is`() {
    let all = ["BORG_RUNTIME_DIR": "/r", "BORG_BASE_DIR": "/b", "XDG_RUNTIME_DIR": "/x"]
    #expect(sockets(all) == ["/r/borg.sock"])
    #expect(sockets(all.filter { $0.key != "BORG_RUNTIME_DIR" }) == ["/b/.cache/borg/borg.sock"])
    #expect(candidates(all).map(\.condition) == [.none])
  }

  @Test func `else the user's runtime directory, if it is private, else one for temporary files`() {
    #expect(
      sockets(["XDG_RUNTIME_DIR": "/x", "TMPDIR": "/t"]) == [
        "/x/borg/borg.sock", "/run/user/1000/borg/borg.sock", "/t/runtime-1000/borg/borg.sock",
      ])
    let conditions: [RuntimeDirectory.Condition] = [
      .isPrivate(made: true), .isPrivate(made: false), .isMadePrivate,
    ]
    #expect(candidates(["XDG_RUNTIME_DIR": "/x"]).map(\.condition) == conditions)
  }

  @Test func `empty variables are none, and a relative runtime directory is none`() {
    let empty = ["BORG_RUNTIME_DIR": "", "BORG_BASE_DIR": "", "XDG_RUNTIME_DIR": "x", "TMPDIR": ""]
    #expect(sockets(empty) == ["/run/user/1000/borg/borg.sock", "/tmp/runtime-1000/borg/borg.sock"])
  }
}

@Suite struct `Help and version` {
  @Test func `no line of the help is longer than 79 columns`() {
    for line in Help.text.split(separator: "\n") {
      #expect(line.count <= 79, "\(line)")
    }
    #expect(Help.text.hasSuffix("become 2.\n"))
  }

  @Test func `the help names every option`() {
    for name in OptionDefinition.table.flatMap(\.names) {
      #expect(Help.text.contains(name), "\(name)")
    }
  }

  @Test func `the help names every exit code`() {
    for code in [ExitCode.success, .failure, .pathNotAllowed, .unexpectedMessage] {
      #expect(Help.text.contains(" \(code.status(modern: true))  "))
    }
  }

  @Test func `the version's second word is the number`() {
    let words = Version.line.split(separator: " ")
    #expect(words[0] == "borg-serve")
    #expect(words[1] == Version.number)
  }

  @Test func `every option of the table has its own names`() {
    let names = OptionDefinition.table.flatMap(\.names)
    #expect(Set(names).count == names.count)
    #expect(Set(OptionDefinition.table.map(\.option)).count == OptionDefinition.table.count)
  }
}
