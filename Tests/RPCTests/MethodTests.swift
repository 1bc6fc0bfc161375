import BorgFormat
import Disk
import RPC
import Session
import Testing

struct MethodTests {
  // MARK: Which methods there are

  @Test(arguments: [
    "info", "check", "list", "get", "put", "delete", "destroy", "save_key", "load_key", "get_manifest",
    "put_manifest",
    "break_lock", "store_list", "store_load", "store_store", "store_delete", "store_move", "inject_exception",
    "__len__",
    "commit", "nonsense", "",
  ])
  func `before open only negotiate, open and close are known`(method: String) throws {
    let client = try Client()
    #expect(try client.call(method) == .failure("InvalidRPCMethod", [.text(method)]))
    #expect(try client.call("close") == .success(nil))
  }

  @Test(arguments: [
    "commit", "rollback", "async_response", "migrate_lock", "serve", "__init__", "Open", "open ", "",
  ])
  func `what is no method is none after open either`(method: String) throws {
    let client = try Place().client()
    #expect(try client.call(method) == .failure("InvalidRPCMethod", [.text(method)]))
  }

  @Test func `an open that was refused makes the methods known, without a repository`() throws {
    let client = try Client { $0.session.granted.paths = [Array("/nonexistent".utf8)] }
    #expect(
      try client.call("open", ["path": "/tmp", "lock_wait": 1]) == .failure("PathNotAllowed", ["/tmp"]))
    #expect(try client.call("info").errorClass == "Error")
    #expect(try client.call("put", ["id": .id(1), "data": .binary([])]).errorClass == "Error")
    #expect(try client.call("nonsense").errorClass == "InvalidRPCMethod")
    #expect(try client.call("close") == .success(nil))
    #expect(client.hangUp() == .closed)
  }

  @Test func `after close a repository can be opened again on the same connection`() throws {
    let place = try Place()
    let client = try place.client()
    let id = try client.call("info").result?["id"]
    #expect(try client.call("close") == .success(nil))
    #expect(try client.call("close") == .success(nil))
    #expect(try client.call("info").errorClass == "Error")
    #expect(try client.call("open", ["path": place.path, "lock_wait": 0]).result == id)
  }

  // MARK: negotiate

  @Test(arguments: [
    Value.named(["client_version": [2, 0, 0, -3, 18]]), .named(["client_version": [1]]), 5, nil, [],
  ])
  func `negotiating tells the version, whatever the client is`(data: Value) throws {
    let client = try Client()
    for _ in 0..<2 {
      #expect(
        try client.call("negotiate", ["client_data": data])
          == .success(.named(["server_version": [2, 0, 0, -3, 18]])))
    }
  }

  @Test func `negotiating without a version is an error`() throws {
    let client = try Client()
    #expect(
      try client.call("negotiate", ["client_data": .map([])]) == .failure("KeyError", ["client_version"]))
    #expect(try client.call("negotiate").errorClass == "TypeError")
  }

  @Test(
    arguments: [
      ([2, 0, 0, -3, 18], "ObjectNotFound"), ([2, 0, 0, -3, 20], "ObjectNotFound"),
      ([2, 0, 0, -3, 21], "StoreObjectNotFound"),
      ([2, 0, 0, -1], "StoreObjectNotFound"), ([2, 1, 0, -4, 1], "StoreObjectNotFound"),
      ([1, 4, 0, -1], "ObjectNotFound"),
      (nil, "ObjectNotFound"),
    ] as [([Int64]?, String)])
  func `a missing store object is named as the client's version knows it`(version: [Int64]?, name: String)
    throws
  {
    let client = try Place().client(version: version)
    #expect(try client.call("store_load", ["name": "archives/aa"]) == .failure(name, ["archives/aa"]))
    #expect(
      try client.call("store_delete", ["name": "cache/chunks_hash"]) == .failure(name, ["cache/chunks_hash"]))
    #expect(try client.call("load_key") == .failure(name, ["keys/repokey"]))
    #expect(
      try client.call("store_move", ["name": "archives/x", "undelete": true])
        == .failure(name, ["archives/x.del"]))
    // Repository objects have the one class in all versions.
    #expect(try client.call("get", ["id": .id(1)]).errorClass == "ObjectNotFound")
    #expect(try client.call("get_manifest") == .failure("NoManifestError", []))
  }

  // MARK: open

  @Test(
    arguments: [
      (["lock_wait": 1], "TypeError"), (["path": 5, "lock_wait": 1], "TypeError"),
      (["path": nil, "lock_wait": 1], "TypeError"),
      (["path": "/x"], "TypeError"), (["path": "/x", "lock_wait": nil], "TypeError"),
      (["path": "/x", "lock_wait": "1"], "TypeError"),
      (["path": "/x", "lock_wait": 1, "create": "yes"], "TypeError"),
      (["path": "/x", "lock_wait": 1, "exclusive": []], "TypeError"),
      (["path": "/x", "lock_wait": 1, "lock": .binary([1])], "TypeError"),
      (["path": "/x", "lock_wait": 1, "v1_or_v2": true], "DoesNotExist"),
      (["path": "/x", "lock_wait": 1, "v1_or_v2": true, "create": true], "Error"),
      (["path": "/nonexistent/x", "lock_wait": 1], "DoesNotExist"),
      (["path": .binary(Array("/nonexistent/x".utf8)), "lock_wait": 1.5], "DoesNotExist"),
      (
        ["path": "/nonexistent/x", "lock_wait": -1, "create": 0, "exclusive": nil, "lock": 1], "DoesNotExist"
      ),
      (["path": "/nonexistent/x", "lock_wait": 1e300], "DoesNotExist"),
      (["path": "/nonexistent/x", "lock_wait": .float(.nan)], "DoesNotExist"),
      (["path": "/nonexistent/x", "lock_wait": .float(.infinity)], "DoesNotExist"),
      (["path": "/nonexistent/x", "lock_wait": .int(.max), "unknown": [1, [2]]], "DoesNotExist"),
      (["path": "/x\0y", "lock_wait": 1], "Error"),
      (["path": .string([0x2f, 0xff]), "lock_wait": 1], "DoesNotExist"),
    ] as [(KeyValuePairs<String, Value>, String)])
  func `open looks at its arguments' types`(arguments: KeyValuePairs<String, Value>, errorClass: String)
    throws
  {
    #expect(try Client().call("open", arguments).errorClass == errorClass)
  }

  @Test func `arguments may come as Python's truth values`() throws {
    let place = try Place()
    let client = try Client()
    let outcome = try client.call(
      "open",
      ["exclusive": 1, "lock": 5, "create": 1, "v1_or_v2": nil, "path": place.path, "lock_wait": true])
    #expect(outcome.result?.bytes?.count == 32)
    #expect(place.locks == 1)
  }

  @Test(
    arguments: [
      ("readme", Array("This is another repository.\n".utf8), "InvalidRepository"),
      ("version", Array("4".utf8), "InvalidRepositoryConfig"),
      ("version", Array("x".utf8), "InvalidRepositoryConfig"), ("version", [], "InvalidRepositoryConfig"),
      ("id", Array("0".utf8), "InvalidRepositoryConfig"), ("id", [0xff], "InvalidRepositoryConfig"),
      ("version", Array(" 3\n".utf8), nil), ("id", Array(String(repeating: "0A", count: 32).utf8), nil),
    ] as [(String, [UInt8], String?)])
  func `a damaged configuration is told from a sound one`(name: String, content: [UInt8], errorClass: String?)
    throws
  {
    let place = try Place()
    #expect(try place.client().hangUp() == .closed)
    try place.write("repository/config/\(name)", content)
    #expect(try Client().call("open", ["path": place.path, "lock_wait": 1]).errorClass == errorClass)
  }

  @Test func `info tells the id and the version`() throws {
    let place = try Place()
    let client = try place.client()
    let id = try #require(Hex.decode(String(decoding: place.content("repository/config/id"), as: UTF8.self)))
    #expect(try client.call("info", ["unknown": 1]) == .success(.named(["id": .binary(id), "version": 3])))
  }

  // MARK: Objects

  @Test func `objects are put, found, replaced, listed and deleted`() throws {
    let client = try Place().client()
    let object = Place.object(meta: 5, data: 10)
    #expect(try client.call("list") == .success([]))
    for number: UInt8 in [3, 1, 2] {
      #expect(try client.call("put", ["id": .id(number), "data": .binary(object)]) == .success(nil))
    }
    #expect(try client.call("put", ["data": .binary([1, 2]), "id": .id(2), "wait": false]) == .success(nil))
    #expect(try client.call("get", ["id": .id(2)]) == .success(.binary([1, 2])))
    #expect(
      try client.call("get", ["id": .id(1), "read_data": false])
        == .success(.binary(Array(object.prefix(29)))))
    let all: Value = [[.id(1), 39], [.id(2), 2], [.id(3), 39]]
    #expect(try client.call("list") == .success(all))
    #expect(try client.call("list", ["limit": 0, "marker": nil]) == .success(all))
    #expect(try client.call("list", ["limit": -1]) == .success(all))
    #expect(try client.call("list", ["limit": 1, "marker": .id(1)]) == .success([[.id(2), 2]]))
    #expect(try client.call("delete", ["id": .id(2), "wait": true]) == .success(nil))
    #expect(try client.call("delete", ["id": .id(2)]).errorClass == "ObjectNotFound")
    #expect(try client.call("get", ["id": .id(2), "raise_missing": false]) == .success(nil))
    #expect(try client.call("get", ["id": .id(2), "raise_missing": nil]) == .success(nil))
    #expect(try client.call("list", ["limit": 5, "marker": .id(1)]) == .success([[.id(3), 39]]))
  }

  @Test(
    arguments: [
      ("get", [:], "TypeError"), ("get", ["id": "text"], "TypeError"), ("get", ["id": nil], "TypeError"),
      ("get", ["id": .binary([1])], "ObjectNotFound"),
      ("get", ["id": .id(1), "read_data": "x"], "TypeError"),
      ("get", ["id": .binary([1]), "raise_missing": false], nil), ("delete", [:], "TypeError"),
      ("delete", ["id": 1], "TypeError"),
      ("delete", ["id": .binary([])], "ObjectNotFound"), ("put", ["id": .id(1)], "TypeError"),
      ("put", ["data": .binary([])], "TypeError"),
      ("put", ["id": .id(1), "data": "text"], "TypeError"),
      ("put", ["id": .id(1), "data": nil], "TypeError"),
      ("put", ["id": .id(1), "data": [1]], "TypeError"),
      ("put", ["id": .binary([1, 2]), "data": .binary([])], "ValueError"),
      ("list", ["limit": "5"], "TypeError"), ("list", ["limit": 5, "marker": 5], "TypeError"),
      ("list", ["limit": 1.5], "TypeError"), ("list", ["marker": .binary([1])], "ValueError"),
      ("check", ["repair": "x"], "TypeError"), ("check", ["max_duration": "x"], "TypeError"),
      ("save_key", [:], "TypeError"), ("save_key", ["keydata": "text"], "TypeError"),
      ("put_manifest", [:], "TypeError"),
      ("store_list", [:], "TypeError"), ("store_list", ["name": 5], "TypeError"),
      ("store_list", ["name": .binary([])], "TypeError"),
      ("store_list", ["name": "", "deleted": "x"], "TypeError"), ("store_load", [:], "TypeError"),
      ("store_load", ["name": nil], "TypeError"),
      ("store_store", ["name": "config/x"], "TypeError"),
      ("store_store", ["value": .binary([])], "TypeError"),
      ("store_store", ["name": "config/x", "value": "text"], "TypeError"), ("store_delete", [:], "TypeError"),
      ("store_move", [:], "ValueError"), ("store_move", ["name": "config/x", "new_name": 5], "TypeError"),
      ("store_move", ["name": "config/x", "new_name": ""], "ValueError"),
      ("store_move", ["delete": true], "TypeError"),
      ("inject_exception", [:], "TypeError"), ("__len__", [:], "Error"),
    ] as [(String, KeyValuePairs<String, Value>, String?)])
  func `missing and mistyped arguments are errors, and the connection goes on`(
    method: String, arguments: KeyValuePairs<String, Value>, errorClass: String?
  ) throws {
    let place = try Place()
    let client = try place.client()
    let before = place.entries("repository/config")?.filter { !$0.hasSuffix(".tmp") }
    #expect(try client.call(method, arguments).errorClass == errorClass)
    #expect(try client.call("info").result != nil)
    #expect(place.entries("repository/config")?.filter { !$0.hasSuffix(".tmp") } == before)
    #expect(try client.call("list") == .success([]))
    #expect(place.staged == [])
  }

  // MARK: The store

  @Test func `store objects are stored, listed, moved and deleted`() throws {
    let client = try Place().client()
    let entry = { (name: String, size: Int64) -> Value in [.text(name), true, .int(size), false] }
    #expect(try client.call("store_list", ["name": "archives"]) == .success([]))
    #expect(
      try client.call("store_store", ["name": "archives/b", "value": .binary([1, 2, 3])]) == .success(nil))
    #expect(try client.call("store_store", ["value": .binary([]), "name": "archives/a"]) == .success(nil))
    #expect(try client.call("store_list", ["name": "archives"]) == .success([entry("a", 0), entry("b", 3)]))
    #expect(
      try client.call("store_load", ["name": "archives/b", "deleted": true]) == .success(.binary([1, 2, 3])))
    #expect(try client.call("store_move", ["name": "archives/b", "delete": true]) == .success(nil))
    #expect(try client.call("store_list", ["name": "archives"]) == .success([entry("a", 0)]))
    #expect(
      try client.call("store_list", ["name": "archives", "deleted": true]) == .success([entry("b", 3)]))
    #expect(try client.call("store_move", ["name": "archives/b", "undelete": true]) == .success(nil))
    #expect(try client.call("store_move", ["name": "archives/b", "new_name": "keys/new"]) == .success(nil))
    #expect(try client.call("store_load", ["name": "keys/new"]) == .success(.binary([1, 2, 3])))
    #expect(try client.call("store_move", ["name": "archives/a", "delete": true]) == .success(nil))
    #expect(try client.call("store_delete", ["name": "archives/a", "deleted": true]) == .success(nil))
    #expect(try client.call("store_list", ["name": "archives", "deleted": true]) == .success([]))
    for name in ["", "."] {
      let names = try client.call("store_list", ["name": .text(name)]).result?.array?.compactMap {
        $0.array?[0].text
      }
      #expect(names?.contains("readme") == true && names?.contains("new") == true)
    }
  }

  @Test func `the manifest and the key are stored and loaded`() throws {
    let place = try Place()
    let client = try place.client()
    #expect(try client.call("put_manifest", ["data": .binary([1, 2])]) == .success(nil))
    #expect(try client.call("get_manifest") == .success(.binary([1, 2])))
    #expect(try client.call("save_key", ["keydata": .binary([])]) == .success(nil))
    #expect(try client.call("load_key") == .success(.binary([])))
    #expect(try place.content("repository/config/manifest") == [1, 2])
    #expect(try place.content("repository/keys/repokey") == [])
  }

  @Test func `destroying ends the repository, not the connection`() throws {
    let place = try Place()
    let client = try place.client()
    #expect(try client.call("destroy") == .success(nil))
    #expect(place.entries("repository") == nil)
    #expect(try client.call("info").errorClass == "Error")
    #expect(try client.call("close") == .success(nil))
    #expect(try client.call("open", ["path": place.path, "lock_wait": 1]).errorClass == "DoesNotExist")
    #expect(client.hangUp() == .closed)
  }

  // MARK: Errors

  @Test(
    arguments: [
      ("DoesNotExist", ["test string"]), ("AlreadyExists", ["test string"]), ("CheckNeeded", ["test string"]),
      ("IntegrityError", ["test string"]), ("InvalidRPCMethod", ["test string"]), ("PathNotAllowed", ["foo"]),
      ("ObjectNotFound", ["test string", "test string2"]),
    ] as [(String, [Value])])
  func `exceptions are injected as upstream's tests want them`(kind: String, arguments: [Value]) throws {
    let client = try Place().client()
    #expect(try client.call("inject_exception", ["kind": .text(kind)]) == .failure(kind, arguments))
  }

  @Test func `an error reply has all that clients of any version print of it`() throws {
    let client = try Place().client { $0.sysinfo = "about the server\n" }
    #expect(client.send(client.request("inject_exception", ["kind": "divide"])))
    let reply = try client.reply()
    #expect(reply.outcome.errorClass == "ZeroDivisionError")
    #expect(reply.whole["exception_short"]?.array?.first?.text?.hasPrefix("ZeroDivisionError:") == true)
    #expect(reply.whole["exception_full"]?.array?.isEmpty == false)
    #expect(reply.whole["exception_trace"] == true)
    #expect(reply.whole["sysinfo"] == "about the server\n")
    #expect(client.send(client.request("nonsense")))
    let other = try client.reply()
    #expect(other.whole["exception_trace"] == false)
    #expect(other.whole["exception_short"] == ["RPC method nonsense is not valid"])
  }

  @Test func `the newer exception is injected for newer clients only`() throws {
    let kind: KeyValuePairs<String, Value> = ["kind": "StoreObjectNotFound"]
    #expect(try Place().client().call("inject_exception", kind) == .success(nil))
    #expect(
      try Place().client(version: [2, 0, 0, -3, 21]).call("inject_exception", kind)
        == .failure("StoreObjectNotFound", ["test string"]))
    #expect(try Place().client().call("inject_exception", ["kind": "other"]) == .success(nil))
  }

  // MARK: Pipelining

  @Test(arguments: Channel.Kind.allCases)
  func `a hundred requests in flight are answered in order`(kind: Channel.Kind) throws {
    let client = try Place().client(kind)
    let first = client.nextID
    var requests: [UInt8] = []
    for number in 0..<100 {
      let id = Value.id(UInt8(number % 10))
      requests +=
        number < 50
        ? client.request("put", ["id": id, "data": .binary([UInt8(number)])])
        : client.request("get", ["id": id])
    }
    #expect(client.send(requests))
    let outcomes = try client.outcomes(100, from: first)
    #expect(outcomes.prefix(50).allSatisfy { $0 == .success(nil) })
    #expect(outcomes.dropFirst(50) == ArraySlice((50..<100).map { .success(.binary([UInt8(40 + $0 % 10)])) }))
  }

  @Test func `requests that arrive byte by byte are answered`() throws {
    let client = try Place().client(.socket)
    let first = client.nextID
    for byte in client.request("put", ["id": .id(1), "data": .binary([7])])
      + client.request("get", ["id": .id(1)])
    {
      #expect(client.send([byte]))
    }
    #expect(try client.outcomes(2, from: first) == [.success(nil), .success(.binary([7]))])
  }
}
