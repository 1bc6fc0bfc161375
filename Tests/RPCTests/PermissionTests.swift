import BorgFormat
import Disk
import Glibc
import RPC
import Session
import Testing

/// What clients can and cannot do in the modes other than `all`: valid protocol, bad intentions.
struct PermissionTests {
  private static let adding: [Permissions] = [.noDelete, .writeOnly]
  private static let object = Place.object(meta: 10, data: 300)
  private static let other = Place.object(meta: 11, data: 300)

  /// A repository with an object, an archive, a manifest and a key, made without restrictions.
  private func place() throws -> Place {
    let place = try Place()
    let client = try place.client()
    #expect(try client.call("put", ["id": .id(1), "data": .binary(Self.object)]) == .success(nil))
    #expect(try client.call("put_manifest", ["data": .binary(Self.object)]) == .success(nil))
    #expect(try client.call("save_key", ["keydata": .binary([1, 2, 3])]) == .success(nil))
    #expect(try store(client, Self.archive(1), []) == .success(nil))
    #expect(client.hangUp() == .closed)
    return place
  }

  private func client(_ place: Place, _ mode: Permissions, exclusive: Bool = true) throws -> Client {
    try place.client(exclusive: exclusive) { $0.session.permissions = mode }
  }

  private func store(_ client: Client, _ name: String, _ value: [UInt8]) throws -> Outcome {
    try client.call("store_store", ["name": .text(name), "value": .binary(value)])
  }

  private static func archive(_ byte: UInt8) -> String {
    "archives/" + Hex.string([UInt8](repeating: byte, count: 32))
  }

  /// All files of the repository with their bytes, but for locks.
  private func files(_ place: Place, _ name: String = "repository") throws -> [String: [UInt8]] {
    var found: [String: [UInt8]] = [:]
    for entry in place.entries(name) ?? [] where !(name == "repository" && entry == "locks") {
      let path = "\(name)/\(entry)"
      if place.entries(path) != nil {
        found.merge(try files(place, path)) { $1 }
      } else {
        found[path] = try place.content(path)
      }
    }
    return found
  }

  // MARK: What goes on

  @Test(arguments: adding)
  func `backups go on: new objects, archives, manifests, indexes`(mode: Permissions) throws {
    let place = try place()
    let client = try client(place, mode)
    #expect(try client.call("put", ["id": .id(2), "data": .binary(Self.other)]) == .success(nil))
    #expect(try store(client, Self.archive(2), []) == .success(nil))
    #expect(try client.call("put_manifest", ["data": .binary(Self.other)]) == .success(nil))
    let (name, index) = Self.index([1, 2])
    #expect(try store(client, name, index) == .success(nil))
    #expect(try client.call("store_delete", ["name": .text(name)]) == .success(nil))
    #expect(client.hangUp() == .closed)
    #expect(try place.content(Place.name(2)) == Self.other)
    #expect(try place.content("repository/config/manifest") == Self.other)
    #expect(place.locks == 0)
  }

  @Test(arguments: [Permissions.noDelete, .readOnly])
  func `what may be read is read`(mode: Permissions) throws {
    let client = try client(place(), mode)
    #expect(try client.call("get", ["id": .id(1)]).result?.bytes == Self.object)
    #expect(try client.call("get_manifest").result?.bytes == Self.object)
    #expect(try client.call("load_key").result?.bytes == [1, 2, 3])
    #expect(try client.call("list").result?.array?.count == 1)
    #expect(try client.call("store_load", ["name": .text(Self.archive(1))]).result?.bytes == [])
    #expect(try client.call("store_list", ["name": "archives"]).result?.array?.count == 1)
  }

  @Test func `weakness 8: in write-only a denied read of data answers not found`() throws {
    let client = try client(place(), .writeOnly)
    #expect(try client.call("get", ["id": .id(1)]).errorClass == "ObjectNotFound")
    #expect(try client.call("get", ["id": .id(1), "raise_missing": false]) == .success(nil))
    #expect(try client.call("get", ["id": .id(1), "read_data": false]).errorClass == "ObjectNotFound")
    let name = "data/" + String(repeating: "01", count: 32)
    #expect(try client.call("store_load", ["name": .text(name)]).errorClass == "ObjectNotFound")
    #expect(try client.call("store_load", ["name": .text(Self.archive(1))]).errorClass == "PermissionDenied")
    #expect(try client.call("check").errorClass == "PermissionDenied")
    // What a backup needs is there all the same.
    #expect(try client.call("get_manifest").result?.bytes == Self.object)
    #expect(try client.call("load_key").result?.bytes == [1, 2, 3])
    #expect(try client.call("list").result?.array?.count == 1)
  }

  // MARK: What does not

  @Test(arguments: [Permissions.noDelete, .writeOnly, .readOnly])
  func `what deletes, overwrites or destroys is refused, and changes nothing`(mode: Permissions) throws {
    let place = try place()
    let before = try files(place)
    let client = try client(place, mode)
    let archive = Value.text(Self.archive(1))
    let object = Value.text("data/" + String(repeating: "01", count: 32))
    let requests: [(String, KeyValuePairs<String, Value>)] = [
      ("delete", ["id": .id(1)]), ("delete", ["id": .id(9)]),
      ("store_delete", ["name": archive]), ("store_delete", ["name": object]),
      ("store_delete", ["name": "keys/repokey"]), ("store_delete", ["name": "config/id"]),
      ("store_delete", ["name": "config/manifest"]),
      ("store_move", ["name": archive, "delete": true]), ("store_move", ["name": object, "delete": true]),
      ("store_move", ["name": archive, "new_name": .text(Self.archive(7))]),
      ("store_move", ["name": "config/id", "new_name": "cache/x"]),
      ("store_store", ["name": archive, "value": .binary([])]),
      ("save_key", ["keydata": .binary([9])]),
      ("store_store", ["name": "keys/repokey", "value": .binary([9])]),
      ("store_store", ["name": "keys/other", "value": .binary([9])]),
      ("check", ["repair": true]), ("destroy", [:]),
    ]
    for (method, arguments) in requests {
      #expect(try client.call(method, arguments).errorClass == "PermissionDenied", "\(method) \(arguments)")
    }
    #expect(client.hangUp() == .closed)
    #expect(try files(place) == before)
  }

  @Test func `read-only stores nothing at all, however large`() throws {
    let place = try place()
    let before = try files(place)
    let client = try client(place, .readOnly)
    let large = Place.object(meta: 0, data: 1 << 20)
    let (index, bytes) = Self.index([1])
    #expect(
      try client.call("put", ["id": .id(2), "data": .binary(Self.other)]).errorClass == "PermissionDenied")
    #expect(try client.call("put", ["id": .id(2), "data": .binary(large)]).errorClass == "PermissionDenied")
    #expect(try store(client, Self.archive(2), []).errorClass == "PermissionDenied")
    #expect(try store(client, index, bytes).errorClass == "PermissionDenied")
    #expect(try store(client, index, large).errorClass == "PermissionDenied")
    #expect(try client.call("put_manifest", ["data": .binary(Self.other)]).errorClass == "PermissionDenied")
    #expect(try client.call("store_delete", ["name": .text(index)]).errorClass == "PermissionDenied")
    #expect(try client.call("check").errorClass == "PermissionDenied")
    #expect(place.staged == [])
    #expect(client.hangUp() == .closed)
    #expect(try files(place) == before)
  }

  @Test(arguments: [Permissions.noDelete, .writeOnly, .readOnly])
  func `no repository is made`(mode: Permissions) throws {
    let place = try Place()
    let client = try Client { $0.session.permissions = mode }
    let outcome = try client.call("open", ["path": place.path, "create": true, "lock_wait": 1])
    #expect(outcome.errorClass == "PermissionDenied")
    #expect(place.entries("repository") == nil)
  }

  @Test(arguments: Permissions.allCases)
  func `weakness 6: Borg 1 repositories are no way around a mode`(mode: Permissions) throws {
    let place = try Place()
    let client = try Client { $0.session.permissions = mode }
    for creates in [false, true] {
      let outcome = try client.call(
        "open", ["path": place.path, "create": .bool(creates), "lock_wait": 1, "v1_or_v2": true])
      #expect(outcome.errorClass == (creates ? "Error" : "DoesNotExist"))
    }
    #expect(place.entries("repository") == nil)
  }

  // MARK: Storing again

  @Test(arguments: adding)
  func `storing an id that is there whole succeeds and keeps the old bytes`(mode: Permissions) throws {
    let place = try place()
    let client = try client(place, mode)
    let large = Place.object(meta: 5, data: 1 << 20)
    #expect(try client.call("put", ["id": .id(1), "data": .binary(Self.other)]) == .success(nil))
    #expect(try client.call("put", ["id": .id(1), "data": .binary(large)]) == .success(nil))
    // One that this session has staged counts, too.
    #expect(try client.call("put", ["id": .id(2), "data": .binary(large)]) == .success(nil))
    #expect(try client.call("put", ["id": .id(2), "data": .binary(Self.other)]) == .success(nil))
    #expect(place.staged.count == 1)
    #expect(client.hangUp() == .closed)
    #expect(try place.content(Place.name(1)) == Self.object)
    #expect(try place.content(Place.name(2)) == large)
  }

  @Test(arguments: adding)
  func `an object that fails its checksums is replaced`(mode: Permissions) throws {
    let place = try place()
    var damaged = Self.object
    damaged[200] ^= 1
    try place.write(Place.name(1), damaged)
    let client = try client(place, mode)
    #expect(try client.call("put", ["id": .id(1), "data": .binary(damaged)]).errorClass == "IntegrityError")
    #expect(try client.call("put", ["id": .id(1), "data": .binary(Self.object)]) == .success(nil))
    #expect(client.hangUp() == .closed)
    #expect(try place.content(Place.name(1)) == Self.object)
  }

  @Test(arguments: adding)
  func `what somebody publishes meanwhile is not overwritten by what waited`(mode: Permissions) throws {
    let place = try place()
    let waiting = try client(place, mode, exclusive: false)
    #expect(try waiting.call("put", ["id": .id(2), "data": .binary(Self.other)]) == .success(nil))
    // Another session's object gets the name first, and an archive relies on it.
    try place.write(Place.name(2), Self.object)
    #expect(waiting.hangUp() == .closed)
    #expect(try place.content(Place.name(2)) == Self.object)
    #expect(place.leftovers() == [])
  }

  @Test(arguments: adding)
  func `a name that leads nowhere does not count as stored`(mode: Permissions) throws {
    let place = try place()
    let client = try client(place, mode)
    let object = Place.name(3)
    try place.root.directory.makeDirectories(try #require(object.parentName))
    let path = (place.root.path + Array("/\(object)".utf8)).map { CChar(bitPattern: $0) } + [0]
    #expect(unsafe symlink("nowhere", path) == 0)
    #expect(try client.call("put", ["id": .id(3), "data": .binary(Self.other)]) == .success(nil))
    #expect(try store(client, Self.archive(3), []) == .success(nil))
    #expect(client.hangUp() == .closed)
    #expect(try place.content(object) == Self.other)
  }

  @Test func `with all permissions the last one stored counts, whatever it is`() throws {
    let place = try place()
    let client = try client(place, .all)
    #expect(try client.call("put", ["id": .id(1), "data": .binary([1])]) == .success(nil))
    #expect(client.hangUp() == .closed)
    #expect(try place.content(Place.name(1)) == [1])
  }

  // MARK: Poison

  @Test(arguments: adding)
  func `weakness 7: the repository's identity and other people's names are not to be written`(
    mode: Permissions
  ) throws {
    let place = try place()
    let before = try files(place)
    let client = try client(place, mode)
    for name in [
      "config/id", "config/version", "config/readme", "config/other", "config/space-reserve.",
      "config/space-reserve.x", "config/space-reserve.1/2", "config/last-key-checked", "locks/mine",
      "locks/0123456789abcdef", "archives/x", "archives/\(String(repeating: "g", count: 64))",
      "cache/other", "cache/last-key-checked", "keys/repokey",
    ] {
      let outcome = try store(client, name, Array("x".utf8))
      #expect(outcome.errorClass == "PermissionDenied", "\(name)")
    }
    #expect(client.hangUp() == .closed)
    #expect(try files(place) == before)
  }

  @Test(arguments: adding)
  func `weakness 7: an object or a manifest has to be whole`(mode: Permissions) throws {
    let place = try place()
    let before = try files(place)
    let client = try client(place, mode)
    var damaged = Place.object(meta: 3, data: 1 << 20)
    damaged[1 << 19] ^= 1
    for bytes in [[], [1], Array(Self.object.dropLast()), damaged] {
      let outcome = try client.call("put", ["id": .id(5), "data": .binary(bytes)])
      #expect(outcome.errorClass == "IntegrityError", "\(bytes.count)")
      if bytes.count < 1 << 20 {
        #expect(try client.call("put_manifest", ["data": .binary(bytes)]).errorClass == "IntegrityError")
      }
    }
    #expect(place.staged == [])
    #expect(client.hangUp() == .closed)
    #expect(try files(place) == before)
  }

  @Test(arguments: adding)
  func `weakness 7: a chunk index names nothing that is missing, and is what its name says`(
    mode: Permissions
  ) throws {
    let place = try place()
    let before = try files(place)
    let client = try client(place, mode)
    let (good, bytes) = Self.index([1])
    let (bad, poison) = Self.index([1, 66])
    #expect(try store(client, "cache/chunks.0123456789abcdef", bytes).errorClass == "IntegrityError")
    #expect(try store(client, good, Array(bytes.dropLast())).errorClass == "IntegrityError")
    #expect(try store(client, good, []).errorClass == "IntegrityError")
    #expect(try store(client, good, [UInt8](repeating: 7, count: 1 << 20)).errorClass == "IntegrityError")
    #expect(try files(place) == before)
    #expect(try store(client, bad, poison).errorClass == "IntegrityError")
    #expect(try store(client, good, bytes) == .success(nil))
    // Nor does a good one become a bad one by another name, or by waiting until it is one.
    for move: KeyValuePairs<String, Value> in [
      ["name": .text(good), "new_name": .text(bad)], ["name": .text(good), "delete": true],
      ["name": .text(good), "undelete": true],
    ] { #expect(try client.call("store_move", move).errorClass == "PermissionDenied") }
  }

  @Test(arguments: adding)
  func `weakness 7: a chunk index is as Borg writes it, or other clients would stumble over it`(
    mode: Permissions
  )
    throws
  {
    let place = try place()
    let client = try client(place, mode)
    let bytes = Self.index([1]).bytes
    func with(_ text: String, in other: String) throws -> [UInt8] {
      let (old, new) = (Array(text.utf8), Array(other.utf8))
      try #require(old.count == new.count)
      var bytes = bytes
      let place = try #require(bytes.indices.first { bytes[$0...].starts(with: old) })
      bytes.replaceSubrange(place..<place + old.count, with: new)
      return bytes
    }
    var value = bytes
    value[bytes.count - 1] = 7
    for bytes in [
      bytes + [0], value, try with("\"capacity\": 1000", in: "\"capacity\": 9999"),
      try with("\"value_type_name\"", in: "\"value_type_nome\""), try with("\"little\"", in: "\"biggie\""),
    ] {
      var reader = ChunkIndexReader()
      try reader.update(bytes.span) { _ in }
      #expect(try store(client, "cache/\(reader.objectName)", bytes).errorClass == "IntegrityError")
    }
  }

  @Test(arguments: adding)
  func `an index that names what is lost is replaced, so that the next backup goes on`(mode: Permissions)
    throws
  {
    let place = try place()
    let (name, index) = Self.index([1, 2])
    try place.write("repository/\(name)", index)
    let client = try client(place, mode)
    // The client merges what it is served, and stores it again.
    #expect(try store(client, name, index).errorClass == "IntegrityError")
    let cached = try #require(place.entries("repository/cache"))
    #expect(cached.filter { $0.hasPrefix("chunks.") } == [])
  }

  @Test func `weakness 7: an index marked as deleted goes with the others before an object is deleted`()
    throws
  {
    let place = try place()
    let (name, index) = Self.index([1])
    let client = try client(place, .all)
    #expect(try store(client, name, index) == .success(nil))
    #expect(try client.call("store_move", ["name": .text(name), "delete": true]) == .success(nil))
    #expect(try client.call("delete", ["id": .id(1)]) == .success(nil))
    #expect(try #require(place.entries("repository/cache")).filter { $0.hasPrefix("chunks.") } == [])
  }

  @Test(arguments: adding)
  func `an archive that was deleted does not come back, and a filler stays as large as it is`(
    mode: Permissions
  )
    throws
  {
    let place = try place()
    let owner = try client(place, .all)
    #expect(try owner.call("store_move", ["name": .text(Self.archive(1)), "delete": true]) == .success(nil))
    #expect(try store(owner, "config/space-reserve.1", [1, 2, 3]) == .success(nil))
    #expect(owner.hangUp() == .closed)
    let client = try client(place, mode)
    #expect(try store(client, Self.archive(1), []).errorClass == "PermissionDenied")
    #expect(try store(client, "config/space-reserve.1", []).errorClass == "PermissionDenied")
    #expect(try store(client, "config/space-reserve.2", [1]) == .success(nil))
  }

  @Test(arguments: adding)
  func `weakness 7: an archive needs its object, and is empty`(mode: Permissions) throws {
    let client = try client(place(), mode)
    #expect(try store(client, Self.archive(3), []).errorClass == "IntegrityError")
    #expect(try client.call("put", ["id": .id(3), "data": .binary(Self.other)]) == .success(nil))
    #expect(try store(client, Self.archive(3), [1]).errorClass == "PermissionDenied")
    #expect(try store(client, Self.archive(3), []) == .success(nil))
    #expect(try store(client, Self.archive(3), []).errorClass == "PermissionDenied")
  }

  // MARK: Locks

  @Test(arguments: [Permissions.noDelete, .writeOnly, .readOnly])
  func `weakness 7: only stale locks are broken, one by one or all at once`(mode: Permissions) throws {
    let place = try place()
    let living = try place.writeLock(exclusive: false)
    let old = LockRecord(
      isExclusive: false, hostID: "elsewhere@2", processID: 3,
      time: Timestamp(milliseconds: Host.now() - 3_600_000))
    let client = try client(place, mode, exclusive: false)
    try place.write("repository/locks/\(old.key)", old.encoded)
    let name = Value.text("locks/\(living)")
    #expect(try client.call("store_delete", ["name": .text("locks/\(old.key)")]) == .success(nil))
    #expect(try client.call("store_delete", ["name": name]).errorClass == "PermissionDenied")
    try place.write("repository/locks/\(old.key)", old.encoded)
    #expect(try client.call("break_lock").errorClass == "PermissionDenied")
    #expect(try client.call("store_move", ["name": name, "delete": true]).errorClass == "PermissionDenied")
    #expect(place.entries("repository/locks")?.contains(living) == true)
    #expect(place.entries("repository/locks")?.contains(old.key) == false)
    #expect(client.hangUp() == .closed)
    #expect(place.locks == 1)
  }

  @Test func `without a living lock there is nothing to refuse`() throws {
    let place = try place()
    let client = try Client { $0.session.permissions = .noDelete }
    #expect(try client.call("open", ["path": place.path, "lock": false, "lock_wait": 1]).result != nil)
    #expect(try client.call("break_lock") == .success(nil))
  }

  @Test(arguments: [Permissions.noDelete, .writeOnly, .readOnly])
  func `locks are the server's to write`(mode: Permissions) throws {
    let client = try client(place(), mode, exclusive: false)
    let record = LockRecord(
      isExclusive: true, hostID: "elsewhere@2", processID: 3, time: Timestamp(milliseconds: Host.now()))
    #expect(try store(client, "locks/\(record.key)", record.encoded).errorClass == "PermissionDenied")
  }

  @Test(arguments: adding)
  func `what others rely on needs a lock, so that nobody deletes meanwhile`(mode: Permissions) throws {
    let place = try place()
    let before = try files(place)
    let client = try Client { $0.session.permissions = mode }
    #expect(try client.call("open", ["path": place.path, "lock": false, "lock_wait": 1]).result != nil)
    let (name, index) = Self.index([1])
    #expect(try store(client, name, index).errorClass == "PermissionDenied")
    #expect(try store(client, Self.archive(5), []).errorClass == "PermissionDenied")
    #expect(
      try client.call("put", ["id": .id(5), "data": .binary(Self.other)]).errorClass == "PermissionDenied")
    #expect(try client.call("check").errorClass == "PermissionDenied")
    #expect(client.hangUp() == .closed)
    #expect(try files(place) == before)
    let sharing = try self.client(place, mode, exclusive: false)
    #expect(try sharing.call("check").errorClass == "PermissionDenied")
  }

  /// A chunk index of ids of one byte each, and its name.
  private static func index(_ ids: [UInt8]) -> (name: String, bytes: [UInt8]) {
    var builder = ChunkIndexBuilder()
    for id in ids { if let id = ObjectID([UInt8](repeating: id, count: 32).span) { builder.insert(id) } }
    let index = builder.finish()
    var bytes: [UInt8] = []
    index.write { piece, range in bytes += piece[range] }
    return ("cache/\(index.objectName)", bytes)
  }
}
