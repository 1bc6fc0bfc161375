import BorgFormat
import Disk
import Glibc
import SegmentRepository
import Session
import Testing

@testable import RPC

/// Whether this build's engine serves repositories: these tests come with it.
private let hasEngine: Bool = {
  guard let root = try? TemporaryDirectory() else { return false }
  return (try? SegmentRepository.create(in: root.directory, label: "", .init())) != nil
}()

/// Borg 1.x over a repository.
@Suite(.enabled(if: hasEngine)) struct Borg1RepositoryTests {
  private typealias Client = Borg1Client
  private let root: TemporaryDirectory
  private let path: Value

  init() throws {
    root = try TemporaryDirectory()
    path = .string(root.path + Array("/repository".utf8))
  }

  private func open(_ id: Int64, creates: Bool = false) -> [UInt8] {
    Client.request(
      .int(id), "open",
      [
        "path": path, "create": .bool(creates), "lock_wait": 1, "lock": true, "exclusive": true,
        "append_only": false, "make_parent_dirs": false,
      ])
  }

  private var begin: [UInt8] { Client.hello + open(2, creates: true) }

  private let manifest = Value.string([UInt8](repeating: 0, count: 32))

  /// What `borg init` sends, with ids from 10 on.
  private var initialisation: [UInt8] {
    Client.request(10, "save_key", ["keydata": "KEY"]) + Client.request(11, "get_free_nonce")
      + Client.request(12, "commit_nonce_reservation", ["next_unreserved": 32, "start_nonce": nil])
      + Client.request(13, "put", ["id": manifest, "data": "M", "wait": true])
      + Client.request(14, "commit", ["save_space": false])
  }

  @Test func `objects come back, in raw strings`() throws {
    let result = try Client.exchange([
      begin + Client.request(3, "put", ["id": .id(1), "data": "hello"])
        + Client.request(4, "get", ["id": .id(1)]) + Client.request(5, "commit")
        + Client.request(6, "get", ["id": .id(2)]) + Client.request(7, "get", ["id": .id(1)])
    ])
    #expect(result.answers.dropFirst(2).first == .named(["i": 3, "r": nil]))
    #expect(result.answers.dropFirst(3).first == .named(["i": 4, "r": "hello"]))
    #expect(result.answers.dropFirst(5).first?["exception_class"] == "ObjectNotFound")
    #expect(result.answers.last == .named(["i": 7, "r": "hello"]))
    #expect(result.end == .closed)
  }

  @Test func `W2: a listing behind an object that is not there is an error`() throws {
    let result = try Client.exchange([begin + Client.request(3, "list", ["limit": 1, "marker": .id(9)])])
    #expect(result.answers.last?["exception_class"] == "KeyError")
    #expect(result.end == .closed)
  }

  @Test func `W13: with --append-only the key stays, from the first connection on, and init works`() throws {
    let result = try Client.exchange([
      begin + initialisation + Client.request(20, "save_key", ["keydata": "OTHER"])
        + Client.request(21, "load_key")
        + Client.request(22, "commit_nonce_reservation", ["next_unreserved": 1, "start_nonce": 32])
        + Client.request(23, "destroy")
    ]) { $0.session.appendOnly = true }
    let answers = result.answers
    for answer in answers.dropFirst(2).prefix(5) { #expect(answer["r"] != nil) }
    #expect(answers.dropFirst(7).first?["exception_class"] == "PermissionDenied")
    #expect(answers.dropFirst(8).first?["r"] == "KEY")
    #expect(answers.dropFirst(9).first?["exception_class"] == "PermissionDenied")
    #expect(answers.last?["exception_class"] != nil)
  }

  @Test func `W24: a commit without a transaction is none`() throws {
    let result = try Client.exchange([begin + Client.request(3, "commit")])
    #expect(result.answers.last == .named(["i": 3, "r": nil]))
  }

  @Test func `W24: an open that fails keeps no lock`() throws {
    _ = try Client.exchange([begin + initialisation])
    let config = try root.directory.file("repository/config")
    let text = try config.read(at: 0, count: config.size())
    try root.directory.remove("repository/config")
    let broken = String(decoding: text, as: UTF8.self).split(separator: "\n").filter { !$0.hasPrefix("id") }
      .joined(separator: "\n")
    try root.directory.create("repository/config").write(Array(broken.utf8), 0..<broken.utf8.count, at: 0)
    let result = try Client.exchange([Client.hello + open(2)])
    #expect(result.answers.last?["exception_class"] != nil)
    #expect(try root.directory.status("repository/lock.exclusive") == nil)
    #expect(try root.directory.status("repository/lock.roster") == nil)
  }

  @Test func `a second open replaces the first, and destroyed repositories can be made again`() throws {
    let result = try Client.exchange([
      begin + open(3) + Client.request(4, "destroy") + Client.request(5, "__len__") + open(6, creates: true)
        + Client.request(7, "__len__")
    ])
    #expect(result.answers.dropFirst(2).first?["r"] == result.answers.dropFirst().first?["r"])
    #expect(result.answers.dropFirst(4).first?["exception_class"] == "AttributeError")
    #expect(result.answers.last == .named(["i": 7, "r": 0]))
  }

  @Test func `where a repository may be made, and where not`() throws {
    _ = try Client.exchange([begin])
    func attempt(_ name: String, parents: Bool = false) throws -> String? {
      let request = Client.request(
        2, "open",
        [
          "path": .string(root.path + Array("/\(name)".utf8)), "create": true, "exclusive": true,
          "make_parent_dirs": .bool(parents),
        ])
      return try Client.exchange([Client.hello + request]).answers.last?["exception_class"]?.text
    }
    #expect(try attempt("repository") == "AlreadyExists")
    #expect(try attempt("repository/data/inner") == "AlreadyExists")
    #expect(try attempt(".") == "PathAlreadyExists")
    #expect(try attempt("a/b") == "ParentPathDoesNotExist")
    #expect(try attempt("a/b", parents: true) == nil)
  }

  // MARK: Permissions

  @Test func `write-only answers the manifest, and tells a client that wants to read what to do`() throws {
    _ = try Client.exchange([
      begin + initialisation + Client.request(15, "put", ["id": .id(1), "data": "x"])
        + Client.request(16, "commit")
    ])
    let result = try Client.exchange([
      Client.hello + open(2) + Client.request(3, "get", ["id": manifest])
        + Client.request(4, "get", ["id": .id(1)]) + Client.request(5, "list", ["limit": 1])
        + Client.request(6, "__len__")
    ]) { $0.session.permissions = .writeOnly }
    #expect(result.answers.dropFirst(2).first?["r"] == "M")
    let refusal = try #require(result.answers.dropFirst(3).first)
    #expect(refusal["exception_class"] == "PermissionDenied")
    #expect(refusal["exception_trace"] == false)
    #expect(refusal["exception_short"]?.array?.first?.text?.contains("chunks cache") == true)
    #expect(result.answers.dropFirst(4).first?["exception_class"] == "PermissionDenied")
    #expect(result.answers.last == .named(["i": 6, "r": 2]))
  }

  /// Every file but locks, with its content.
  private func files(_ below: String = "repository") throws -> [String: [UInt8]] {
    var found: [String: [UInt8]] = [:]
    let directory = try root.directory.directory(below)
    for name in try directory.entries() where !name.hasPrefix("lock.") {
      let path = "\(below)/\(name)"
      if try directory.status(name)?.kind == .directory {
        found.merge(try files(path)) { $1 }
      } else {
        let file = try directory.file(name)
        found[path] = try file.read(at: 0, count: file.size())
      }
    }
    return found
  }

  /// A repository with objects, superseded ones too.
  private func fill() throws {
    var requests = begin + initialisation
    for number: UInt8 in 1..<6 {
      requests += Client.request(20, "put", ["id": .id(number), "data": "first"])
    }
    requests += Client.request(21, "commit", ["compact": false])
    requests += Client.request(22, "put", ["id": .id(1), "data": "second"])
    requests += Client.request(23, "commit", ["compact": false])
    _ = try Client.exchange([requests])
  }

  /// What a client that means harm sends, and that changes something.
  private var harm: [UInt8] {
    var requests = Client.request(30, "put", ["id": manifest, "data": "garbage"])
    for number: UInt8 in 1..<6 { requests += Client.request(31, "delete", ["id": .id(number)]) }
    for threshold in [Double.nan, -Double.infinity, -1, 0, 0.1] {
      requests += Client.request(
        32, "commit", ["compact": true, "threshold": .float(threshold), "cleanup_commits": true])
      requests += Client.request(33, "put", ["id": .id(1), "data": "garbage"])
    }
    requests += Client.request(34, "commit")
    requests += Client.request(35, "save_key", ["keydata": "OTHER"])
    requests += Client.request(36, "commit_nonce_reservation", ["next_unreserved": 1, "start_nonce": 32])
    requests +=
      Client.request(37, "check", ["repair": true]) + Client.request(38, "check", ["max_duration": 1])
    requests += Client.request(39, "break_lock") + Client.request(40, "destroy")
    return requests
  }

  @Test(arguments: [Permissions.noDelete, .writeOnly])
  func `where the log only grows, all that was committed stays, byte for byte`(mode: Permissions) throws {
    try fill()
    let before = try files()
    let result = try Client.exchange([Client.hello + open(2) + harm]) { $0.session.permissions = mode }
    let after = try files()
    for (name, content) in before where name.contains("/data/") || name.hasSuffix("/config") {
      #expect(after[name] == content, "\(name)")
    }
    #expect(after["repository/nonce"] == before["repository/nonce"])
    for answer in result.answers.suffix(6) {
      #expect(answer["exception_class"] == "PermissionDenied", "\(answer)")
    }
    for answer in result.answers.dropFirst(2).dropLast(6) { #expect(answer["r"] == .nil, "\(answer)") }
    #expect(result.answers.count == 2 + 6 + 10 + 1 + 6)
  }

  @Test func `read-only changes nothing but locks, and recovers in memory`() throws {
    try fill()
    for name in try root.directory.directory("repository").entries() where name.hasPrefix("index.") {
      try root.directory.remove("repository/\(name)")
    }
    let before = try files()
    let result = try Client.exchange([
      Client.hello + open(2) + harm + Client.request(50, "check") + Client.request(51, "get", ["id": .id(1)])
    ]) { $0.session.permissions = .readOnly }
    #expect(try files() == before)
    for answer in result.answers.dropFirst(2).dropLast(2) {
      #expect(answer["exception_class"] == "PermissionDenied", "\(answer)")
    }
    #expect(
      Array(result.answers.suffix(2)) == [.named(["i": 50, "r": true]), .named(["i": 51, "r": "second"])])
  }

  @Test func `a check leaves the config alone where that is protected`() throws {
    try fill()
    let config = try root.directory.file("repository/config", .update)
    let mark = Array("last_segment_checked = 1\n".utf8)
    try config.write(mark, mark.indices, at: config.size() - 1)
    let before = try files()["repository/config"]
    for mode in [Permissions.noDelete, .readOnly] {
      let result = try Client.exchange([Client.hello + open(2) + Client.request(3, "check")]) {
        $0.session.permissions = mode
      }
      #expect(result.answers.last == .named(["i": 3, "r": true]))
      #expect(try files()["repository/config"] == before)
    }
    _ = try Client.exchange([Client.hello + open(2) + Client.request(3, "check")])
    #expect(try files()["repository/config"] != before)
  }

  @Test func `a key that came after the session was opened is protected too`() throws {
    _ = try Client.exchange([begin])
    let shared = Client.request(2, "open", ["path": path, "lock": false])
    let early = try Borg1Live { $0.session.appendOnly = true }
    #expect(try early.call(shared)["r"] != nil)
    _ = try Client.exchange([Client.hello + open(2) + Client.request(3, "save_key", ["keydata": "KEY"])])
    let answer = try early.call(Client.request(4, "save_key", ["keydata": "OTHER"]))
    #expect(answer["exception_class"] == "PermissionDenied")
    let key = try Client.exchange([Client.hello + shared + Client.request(3, "load_key")]).answers.last
    #expect(key?["r"] == "KEY")
  }

  @Test func `W13: without a lock the nonce is raised by nobody while another session writes`() throws {
    _ = try Client.exchange([begin + initialisation])
    let appendOnly: @Sendable (inout RPCConnection.Configuration) -> Void = { $0.session.appendOnly = true }
    let writer = try Borg1Live(configure: appendOnly)
    #expect(try writer.call(open(2))["r"] != nil)
    let other = try Borg1Live(configure: appendOnly)
    #expect(
      try other.call(Client.request(2, "open", ["path": path, "lock": false, "lock_wait": 0]))["r"] != nil)
    let request = Client.request(
      3, "commit_nonce_reservation", ["next_unreserved": 64, "start_nonce": 32])
    #expect(try other.call(request)["exception_class"] == "LockTimeout")
    writer.hangUp()
    #expect(writer.end() == .closed)
    #expect(try other.call(request)["r"] == .nil)
  }

  @Test func `sessions of one process keep each other out`() throws {
    _ = try Client.exchange([begin])
    let writer = try Borg1Live()
    #expect(try writer.call(open(2))["r"] != nil)
    let other = try Borg1Live()
    let request = Client.request(2, "open", ["path": path, "exclusive": true, "lock_wait": 0])
    #expect(try other.call(request)["exception_class"] == "LockTimeout")
    writer.hangUp()
    #expect(writer.end() == .closed)
    #expect(try other.call(request)["r"] != nil)
  }

  @Test func `commits of nothing take no room where the log only grows`() throws {
    _ = try Client.exchange([begin + initialisation])
    let before = try files()
    var requests = Client.hello + open(2)
    for _ in 0..<5 { requests += Client.request(3, "delete", ["id": .id(9)]) + Client.request(4, "commit") }
    let result = try Client.exchange([requests]) { $0.session.appendOnly = true }
    #expect(result.answers.last == .named(["i": 4, "r": .nil]))
    #expect(try files() == before)
  }

  @Test func `a key that makes the config too long to be read is not stored`() throws {
    let key = Value.string([UInt8](repeating: UInt8(ascii: "k"), count: 1 << 20))
    let result = try Client.exchange([
      begin + Client.request(3, "save_key", ["keydata": key]) + open(4)
    ])
    #expect(result.answers.dropFirst(2).first?["exception_class"] == "ValueError")
    #expect(result.answers.last?["r"] != nil)
  }

  // MARK: Quota

  @Test func `a quota holds from creation on, and stands in the config`() throws {
    let result = try Client.exchange([
      begin + Client.request(3, "put", ["id": .id(1), "data": .string([UInt8](repeating: 1, count: 900))])
        + Client.request(4, "put", ["id": .id(2), "data": .string([UInt8](repeating: 1, count: 60))])
        + Client.request(5, "commit")
    ]) { $0.session.storageQuota = 1000 }
    #expect(result.answers.dropFirst(2).first?["r"] == .nil)
    #expect(result.answers.dropFirst(3).first?["exception_class"] == "StorageQuotaExceeded")
    #expect(result.answers.last?["exception_class"] == "StorageQuotaExceeded")
    let config = String(decoding: try files()["repository/config"] ?? [], as: UTF8.self)
    #expect(config.contains("\nstorage_quota = 1000\n"))
    #expect(try files().keys.allSatisfy { !$0.contains("/data/") })
  }

  @Test func `overwriting counts against a quota, from session to session`() throws {
    func put(_ count: Int, _ session: Int64) throws -> [String?] {
      var requests = Client.hello + open(2, creates: session == 0)
      for _ in 0..<count {
        requests += Client.request(
          3, "put", ["id": .id(1), "data": .string([UInt8](repeating: 1, count: 159))])
      }
      requests += Client.request(4, "commit")
      let result = try Client.exchange([requests]) {
        ($0.session.storageQuota, $0.session.appendOnly) = (1000, true)
      }
      return result.answers.dropFirst(2).map { $0["exception_class"]?.text }
    }
    let exceeded = "StorageQuotaExceeded"
    #expect(try put(2, 0) == [nil, nil, nil])
    // What is given up counts no more.
    #expect(try put(4, 1) == [nil, nil, nil, exceeded, exceeded])
    #expect(try put(3, 2) == [nil, nil, nil, nil])
    #expect(try put(1, 3) == [exceeded, exceeded])
  }

  // MARK: The end in the middle of something

  /// A repository whose check takes seconds: 150 times the same 20 MB.
  private func makeSlow() throws {
    let data = Value.string([UInt8](repeating: 7, count: 20_000_000))
    _ = try Client.exchange([
      begin + Client.request(3, "put", ["id": .id(1), "data": data])
        + Client.request(4, "commit", ["compact": false])
    ])
    let data0 = try root.directory.directory("repository/data/0")
    for number in 2..<152 { try data0.link("0", to: "\(number)") }
    try data0.link("1", to: "152")
  }

  private func locks() throws -> [String] {
    try root.directory.directory("repository").entries().filter { $0.hasPrefix("lock.") }.sorted()
  }

  @Test(arguments: [true, false])
  func `W10: a signal ends a check and W11: so does a hangup`(isSignal: Bool) throws {
    try makeSlow()
    let client = try Borg1Live()
    #expect(try client.call(open(2))["r"] != nil)
    client.send(Client.request(3, "check"))
    try client.untilLog("Starting repository check")
    let start = ContinuousClock.now
    if isSignal {
      client.connection.interrupt()
    } else {
      client.hangUp()
      // A real server looks twice a second.
      client.connection.tick()
    }
    #expect(client.end() == (isSignal ? .interrupted : .closed))
    #expect(ContinuousClock.now - start < .seconds(1))
    #expect(try locks() == [])
  }

  @Test(arguments: [true, false])
  func `W10: a signal ends the wait for a lock and W11: so does a hangup`(isSignal: Bool) throws {
    _ = try Client.exchange([begin])
    let holder = try Borg1Live()
    #expect(try holder.call(open(2))["r"] != nil)
    let held = try locks()
    let client = try Borg1Live()
    client.send(Client.request(2, "open", ["path": path, "exclusive": true, "lock_wait": 3600]))
    try client.untilLog("Resolving")
    if isSignal {
      client.connection.interrupt()
    } else {
      client.hangUp()
      client.connection.tick()
    }
    #expect(client.end() == (isSignal ? .interrupted : .closed))
    #expect(try locks() == held)
    #expect(try holder.call(Client.request(3, "__len__")) == .named(["i": 3, "r": 0]))
  }

  @Test func `W10: a server that was told to end takes no further request`() throws {
    _ = try Client.exchange([begin])
    let client = try Borg1Live()
    #expect(try client.call(open(2))["r"] != nil)
    client.connection.interrupt()
    client.send(Client.request(3, "put", ["id": .id(1), "data": "x"]))
    #expect(client.end() == .interrupted)
    #expect(try locks() == [])
  }
}
