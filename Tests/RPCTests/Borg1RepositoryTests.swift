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
}
