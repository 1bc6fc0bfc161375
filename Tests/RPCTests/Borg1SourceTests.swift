import BorgFormat
import Disk
import RPC
import Session
import Testing

/// Repositories of Borg 1.x that clients of Borg 2 open with `v1_or_v2`.
struct Borg1SourceTests {
  private let place: Place
  private let manifest = Value.binary([UInt8](repeating: 0, count: 32))

  /// A repository with a manifest, a key and the objects 1 and 2, made by a client of Borg 1.x.
  init() throws {
    place = try Place()
    let open = Borg1Client.request(
      2, "open", ["path": place.path, "create": true, "lock_wait": 1, "lock": true, "exclusive": true])
    let null = Value.string([UInt8](repeating: 0, count: 32))
    let made = try Borg1Client.exchange([
      Borg1Client.hello + open + Borg1Client.request(3, "save_key", ["keydata": "KEY"])
        + Borg1Client.request(4, "put", ["id": null, "data": "MANIFEST"])
        + Borg1Client.request(5, "put", ["id": .id(1), "data": "one"])
        + Borg1Client.request(6, "put", ["id": .id(2), "data": .string(Self.large)])
        + Borg1Client.request(7, "commit")
    ])
    try #require(made.answers.last == .named(["i": 7, "r": nil]))
  }

  private static let large = (0..<300_000).map { UInt8(truncatingIfNeeded: $0 / 3) }

  private func open(
    _ client: Client, legacy: Bool = true, create: Bool = false, exclusive: Value = true, path: Value? = nil
  ) throws -> Outcome {
    try client.call(
      "open",
      [
        "path": path ?? place.path, "create": .bool(create), "lock_wait": 1, "lock": true,
        "exclusive": exclusive, "v1_or_v2": .bool(legacy),
      ])
  }

  /// A client that has the repository open.
  private func client(_ configure: (inout RPCConnection.Configuration) -> Void = { _ in }) throws -> Client {
    let client = try Client(configure: configure)
    try #require(try open(client).result?.bytes?.count == 32)
    return client
  }

  @Test func `what a transfer reads is answered as Borg 2 wants it`() throws {
    let client = try client()
    let info = try #require(try client.call("info").result)
    #expect(info["version"] == 1)
    #expect(info["id"]?.bytes?.count == 32)
    #expect(try client.call("info").result == info)
    #expect(try client.call("load_key") == .success(.binary(Array("KEY".utf8))))
    #expect(try client.call("get_manifest") == .success(.binary(Array("MANIFEST".utf8))))
    #expect(try client.call("get", ["id": manifest]) == .success(.binary(Array("MANIFEST".utf8))))
    #expect(try client.call("get", ["id": .id(2)]) == .success(.binary(Self.large)))
    #expect(try client.call("get", ["id": .id(1), "read_data": false]) == .success(nil))
    #expect(try client.call("__len__") == .success(3))
    let all = try #require(try client.call("list").result?.array)
    #expect(Set(all) == [manifest, .id(1), .id(2)])
    let page = try #require(try client.call("list", ["limit": 1]).result?.array)
    #expect(page == Array(all.prefix(1)))
    #expect(try client.call("list", ["limit": 5, "marker": page[0]]).result?.array == Array(all.dropFirst()))
    #expect(try client.call("list", ["limit": 0]) == .success([]))
    #expect(try client.call("check") == .success(true))
    #expect(try client.call("close") == .success(nil))
    #expect(place.entries("repository/lock.exclusive") == nil)
    #expect(try client.call("info").errorClass == "Error")
    #expect(client.hangUp() == .closed)
  }

  @Test func `what is not there is missing, or nil on demand`() throws {
    let client = try client()
    let missing = try client.call("get", ["id": .id(9)])
    #expect(missing.errorClass == "ObjectNotFound")
    #expect(missing.arguments.first == .text(String(repeating: "09", count: 32)))
    #expect(try client.call("get", ["id": .id(9), "raise_missing": false]) == .success(nil))
    #expect(try client.call("get", ["id": .binary([1])]).errorClass == "ObjectNotFound")
    #expect(try client.call("list", ["limit": 1, "marker": .id(9)]).errorClass == "Error")
    #expect(try client.call("list", ["limit": -1]).errorClass == "Error")
    #expect(try client.call("delete", ["id": manifest]) == .success(nil))
    #expect(try client.call("get_manifest").errorClass == "Error")
    #expect(try client.call("rollback") == .success(nil))
    #expect(try client.call("get_manifest").result != nil)
  }

  @Test(arguments: [
    "put_manifest", "store_list", "store_load", "store_store", "store_delete", "store_move", "scan",
    "get_free_nonce",
    "commit_nonce_reservation", "nonsense",
  ])
  func `methods of other repositories are not known here`(method: String) throws {
    #expect(try client().call(method) == .failure("InvalidRPCMethod", [.text(method)]))
  }

  @Test func `many reads at once come back in their order`() throws {
    let client = try client()
    let first = client.nextID
    let ids = (0..<200).map { UInt8($0 % 2 + 1) }
    #expect(client.send(ids.flatMap { client.request("get", ["id": .id($0)]) }))
    let outcomes = try client.outcomes(ids.count, from: first)
    for (id, outcome) in zip(ids, outcomes) {
      #expect(outcome == .success(.binary(id == 1 ? Array("one".utf8) : Self.large)))
    }
  }

  @Test func `reads that arrive together with their open are answered, too`() throws {
    let client = try Client()
    let open = client.request(
      "open", ["path": place.path, "lock_wait": 1, "exclusive": true, "v1_or_v2": true])
    let gets = (0..<100).flatMap { client.request("get", ["id": .id(UInt8($0 % 2 + 1))]) }
    #expect(client.send(open + gets))
    let outcomes = try client.outcomes(101, from: 1)
    #expect(outcomes.allSatisfy { $0.result != nil })
  }

  @Test func `what is stored is what clients of Borg 1 read, large values too`() throws {
    let client = try client()
    let huge = [UInt8](repeating: 7, count: Limits.putData)
    #expect(try client.call("put", ["id": .id(3), "data": .binary([1, 2])]) == .success(nil))
    #expect(try client.call("put", ["id": .id(4), "data": .binary(huge)]) == .success(nil))
    #expect(try client.call("delete", ["id": .id(2)]) == .success(nil))
    #expect(try client.call("delete", ["id": .id(2)]).errorClass == "ObjectNotFound")
    #expect(try client.call("commit", ["compact": true, "threshold": 0.1]) == .success(nil))
    #expect(try client.call("get", ["id": .id(4)]) == .success(.binary(huge)))
    #expect(try client.call("close") == .success(nil))
    let read = try Borg1Client.exchange([
      Borg1Client.hello + Borg1Client.request(2, "open", ["path": place.path, "exclusive": true])
        + Borg1Client.request(3, "get", ["id": .id(3)]) + Borg1Client.request(4, "get", ["id": .id(2)])
        + Borg1Client.request(5, "check")
    ])
    #expect(read.answers.dropFirst(2).first?["r"] == .string([1, 2]))
    #expect(read.answers.dropFirst(3).first?["exception_class"] == "ObjectNotFound")
    #expect(read.answers.last?["r"] == true)
  }

  @Test func `a value that is too large is refused, and the connection goes on`() throws {
    let client = try client()
    let tooLarge = [UInt8](repeating: 7, count: Limits.putData + 1)
    #expect(try client.call("put", ["id": .id(3), "data": .binary(tooLarge)]).errorClass == "IntegrityError")
    #expect(try client.call("get", ["id": .id(1)]).result != nil)
  }

  // MARK: Which repository is opened

  @Test func `the other kind of repository is named, and how to open it`() throws {
    let client = try Client()
    let asBorg2 = try open(client, legacy: false)
    #expect(asBorg2.errorClass == "Error")
    #expect(asBorg2.arguments.first?.text?.contains("--from-borg1") == true)
    let other = SecondPlace(place)
    #expect(try open(client, legacy: false, create: true, path: other.path).result != nil)
    let asBorg1 = try open(client, path: other.path)
    #expect(asBorg1.errorClass == "Error")
    #expect(asBorg1.arguments.first?.text?.contains("without --from-borg1") == true)
    // What it did not open it did not lock, and what was open before is closed.
    #expect(place.entries("other/lock.exclusive") == nil)
    #expect(place.entries("other/locks") == [])
  }

  @Test func `a repository of version 2 is refused in one sentence`() throws {
    let config = String(decoding: try place.content("repository/config"), as: UTF8.self)
    let changed = config.split(separator: "\n", omittingEmptySubsequences: false)
      .map { $0 == "version = 1" ? "version = 2" : String($0) }.joined(separator: "\n")
    try place.write("repository/config", Array(changed.utf8))
    for legacy in [true, false] {
      let outcome = try open(try Client(), legacy: legacy)
      #expect(outcome.errorClass == "Error")
      #expect(outcome.arguments.first?.text?.contains("version 2") == true)
    }
    #expect(place.entries("repository/lock.exclusive") == nil)
  }

  @Test func `none is created`() throws {
    let other = SecondPlace(place)
    let outcome = try open(try Client(), create: true, path: other.path)
    #expect(outcome.errorClass == "Error")
    #expect(place.entries("other") == nil)
  }

  @Test func `one engine is closed before the other one opens`() throws {
    let client = try client()
    let other = SecondPlace(place)
    #expect(place.entries("repository/lock.exclusive")?.count == 1)
    #expect(try open(client, legacy: false, create: true, path: other.path).result != nil)
    #expect(place.entries("repository/lock.exclusive") == nil)
    #expect(try client.call("info").result?["version"] == 3)
    #expect(try client.call("commit").errorClass == "InvalidRPCMethod")
    #expect(try open(client).result != nil)
    #expect(place.entries("other/locks") == [])
    #expect(try client.call("info").result?["version"] == 1)
    #expect(client.hangUp() == .closed)
    #expect(place.entries("repository/lock.exclusive") == nil)
  }

  @Test func `an open without a path is none, and changes no table of methods`() throws {
    let client = try client()
    #expect(try client.call("open", ["v1_or_v2": false]).errorClass == "Error")
    #expect(try client.call("rollback") == .success(nil))
    let other = try Client()
    #expect(try other.call("open", ["v1_or_v2": true]).errorClass == "TypeError")
    #expect(try other.call("info").errorClass == "InvalidRPCMethod")
  }

  @Test func `restrictions hold`() throws {
    let client = try Client { $0.session.granted.paths = [Array("/nonexistent".utf8)] }
    #expect(try open(client).errorClass == "PathNotAllowed")
    #expect(try client.call("get", ["id": .id(1)]).errorClass == "Error")
  }

  // MARK: Permissions

  @Test func `read-only reads and stores nothing`() throws {
    let client = try client { $0.session.permissions = .readOnly }
    #expect(try client.call("get", ["id": .id(1)]).result != nil)
    for (method, arguments) in [
      ("put", ["id": .id(3), "data": .binary([])]), ("delete", ["id": .id(1)]), ("commit", [:]),
      ("save_key", ["keydata": .binary([1])]), ("destroy", [:]), ("check", ["repair": true]),
    ] as [(String, KeyValuePairs<String, Value>)] {
      let outcome = try client.call(method, arguments)
      #expect(outcome.errorClass == "Error")
      #expect(outcome.arguments.first?.text?.hasPrefix("Permission denied") == true)
    }
  }

  @Test func `write-only tells a client that reads, in one line`() throws {
    let client = try client { $0.session.permissions = .writeOnly }
    #expect(try client.call("get_manifest").result != nil)
    let outcome = try client.call("get", ["id": .id(1), "raise_missing": false])
    #expect(
      outcome
        == .failure(
          "Error", ["Permission denied: reading objects is not permitted in the mode write-only."]))
  }

  @Test func `with --append-only it can be read, where Borg 2's own repositories are refused`() throws {
    let client = try client {
      $0.session.appendOnly = true
      $0.session.refusalOfBorg2 = .unsupported("no")
    }
    #expect(try client.call("get", ["id": .id(1)]).result != nil)
    #expect(try client.call("destroy").errorClass == "Error")
    #expect(try open(client, legacy: false).errorClass == "Error")
  }
}

/// Room for a second repository beside the first.
private struct SecondPlace {
  let path: Value
  init(_ place: Place) { path = .string(place.root.path + Array("/other".utf8)) }
}
