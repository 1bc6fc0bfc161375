import BorgFormat
import Disk
import RPC
import Testing

/// Bytes that differ from one place to the next, and from one seed to the other.
private func pattern(_ count: Int, seed: UInt8 = 0) -> [UInt8] {
  (0..<count).map { UInt8(truncatingIfNeeded: $0 ^ $0 >> 8 ^ $0 >> 16) &+ seed }
}

struct LargeValueTests {
  @Test func `the largest object is put, one more byte is an integrity error`() throws {
    let place = try Place()
    let client = try place.client()
    let largest = pattern(20_971_479)
    #expect(try client.call("put", ["id": .id(1), "data": .binary(largest)]) == .success(nil))
    #expect(
      try client.call("put", ["id": .id(2), "data": .binary(largest + [0])])
        == .failure("IntegrityError", ["More than allowed put data [20971480 > 20971479]"]))
    #expect(
      try client.call("put", ["data": .binary(largest + [0]), "id": .id(2)]).errorClass == "IntegrityError")
    #expect(try client.call("list") == .success([[.id(1), 20_971_479]]))
    let found = try client.call("get", ["id": .id(1)]).result?.bytes
    #expect(found == largest)
    #expect(client.hangUp() == .closed)
    #expect(try place.content(Place.name(1)) == largest)
    #expect(place.leftovers() == [])
  }

  @Test func `what is far too large is read, not stored, and the connection lives on`() throws {
    let place = try Place()
    let client = try place.client()
    let first = client.nextID
    let value = Value.binary([UInt8](repeating: 1, count: 30_000_000))
    #expect(client.send(client.request("put", ["id": .id(1), "data": value]) + client.request("info")))
    let outcomes = try client.outcomes(2, from: first)
    #expect(outcomes[0].errorClass == "IntegrityError")
    #expect(outcomes[1].result?["version"] == 3)
    #expect(try client.call("list") == .success([]))
    #expect(place.staged == [])
  }

  @Test(arguments: ["nonsense", "get", "store_list", "negotiate", "close"])
  func `a large value that no method wants is thrown away`(method: String) throws {
    let place = try Place()
    let client = try place.client()
    let first = client.nextID
    let arguments: KeyValuePairs<String, Value> = [
      "x": .binary(pattern(300_000)), "id": .id(1), "name": "archives",
    ]
    #expect(
      client.send(client.request(method, arguments) + client.request("inject_exception", ["kind": "other"])))
    #expect(try client.outcomes(2, from: first).last == .success(nil))
    #expect(client.hangUp() == .closed)
    #expect(place.leftovers() == [])
  }

  @Test func `before open a large value is thrown away, too`() throws {
    let client = try Client()
    let value = Value.binary(pattern(300_000))
    #expect(try client.call("put", ["id": .id(1), "data": value]) == .failure("InvalidRPCMethod", ["put"]))
    #expect(try client.call("negotiate", ["client_data": value]).result != nil)
    #expect(client.hangUp() == .closed)
  }

  @Test(arguments: [131_072, 131_073, 262_144, 1_000_000])
  func `values of any size are stored, the arguments in any order`(size: Int) throws {
    let place = try Place()
    let client = try place.client()
    let data = pattern(size)
    #expect(try client.call("put", ["data": .binary(data), "id": .id(1)]) == .success(nil))
    #expect(try client.call("put", ["id": .id(2), "data": .binary(data), "wait": true]) == .success(nil))
    #expect(
      try client.call("store_store", ["value": .binary(data), "name": "cache/chunks.1"]) == .success(nil))
    #expect(
      try client.call("store_store", ["name": "cache/chunks.2", "value": .binary(data)]) == .success(nil))
    #expect(try client.call("put_manifest", ["data": .binary(data)]) == .success(nil))
    #expect(try client.call("save_key", ["keydata": .binary(data)]) == .success(nil))
    let found: [Value?] = [
      try client.call("get", ["id": .id(1)]).result, try client.call("get", ["id": .id(2)]).result,
      try client.call("store_load", ["name": "cache/chunks.1"]).result,
      try client.call("store_load", ["name": "cache/chunks.2"]).result,
      try client.call("get_manifest").result,
      try client.call("load_key").result,
    ]
    #expect(found.allSatisfy { $0 == .binary(data) })
    #expect(client.hangUp() == .closed)
    #expect(place.leftovers() == [])
    #expect(try place.content(Place.name(1)) == data)
  }

  @Test func `a large value may come before the method and the id`() throws {
    let client = try Place().client()
    let data = pattern(400_000)
    for (number, method) in ["put", "nonsense"].enumerated() {
      let arguments = Value.named(["data": .binary(data), "id": .id(1)])
      #expect(
        client.send(Value.named(["a": arguments, "m": .text(method), "i": .int(Int64(number))]).encoded))
      #expect(try client.reply().outcome.errorClass == (number == 0 ? nil : "InvalidRPCMethod"))
    }
    #expect(try client.call("get", ["id": .id(1)]) == .success(.binary(data)))
  }

  @Test(arguments: [
    ("store_store", "name", "value"), ("put_manifest", "x", "data"), ("save_key", "x", "keydata"),
  ])
  func `small objects have a limit, the cache and fillers have none to speak of`(
    method: String, name: String, value: String
  ) throws {
    let client = try Place().client()
    let data = Value.binary([UInt8](repeating: 0, count: 1_048_577))
    #expect(try client.call(method, [name: "archives/x", value: data]).errorClass == "IntegrityError")
    for name in ["cache/chunks.0", "config/space-reserve.0"] {
      #expect(try client.call("store_store", ["name": .text(name), "value": data]) == .success(nil))
    }
    #expect(try client.call("store_list", ["name": "archives"]) == .success([]))
  }

  @Test func `a large string where bytes are wanted is a type error`() throws {
    let place = try Place()
    let client = try place.client()
    let text = Value.string(pattern(300_000))
    #expect(try client.call("put", ["id": .id(1), "data": text]).errorClass == "TypeError")
    #expect(try client.call("get", ["id": .binary(pattern(300_000))]).errorClass == "TypeError")
    #expect(try client.call("open", ["path": text, "lock_wait": 1]).errorClass == "TypeError")
    #expect(client.hangUp() == .closed)
    #expect(place.leftovers() == [])
  }

  @Test func `a large value with an id that no object has is not stored`() throws {
    let place = try Place()
    let client = try place.client()
    #expect(
      try client.call("put", ["id": .binary([1]), "data": .binary(pattern(300_000))]).errorClass
        == "ValueError")
    #expect(
      try client.call("store_store", ["name": "x/y", "value": .binary(pattern(300_000))]).errorClass
        == "KeyError")
    #expect(client.hangUp() == .closed)
    #expect(place.leftovers() == [])
  }

  @Test func `a large value that is not the one wanted leaves nothing staged`() throws {
    let place = try Place()
    let client = try place.client()
    let unknown = Value.binary(pattern(300_000))
    #expect(
      try client.call("put", ["id": .id(1), "data": .binary([1]), "unknown": unknown]) == .success(nil))
    #expect(try client.call("list") == .success([[.id(1), 1]]))
    #expect(place.staged == [])
  }

  @Test func `a value that cannot be staged is the disk's fault, not the client's`() throws {
    let place = try Place()
    let client = try place.client()
    try place.write("repository/data", [])
    let (small, large) = (Value.binary([1]), Value.binary(pattern(300_000)))
    let inline = try client.call("put", ["id": .id(1), "data": small])
    #expect(inline.errorClass == "Error")
    #expect(try client.call("put", ["id": .id(1), "data": large]) == inline)
  }

  // MARK: Answers

  @Test(arguments: Channel.Kind.allCases)
  func `large objects are answered whole, in order with small ones`(kind: Channel.Kind) throws {
    let client = try Place().client(kind)
    let sizes = [5_000_000, 10, 131_072, 131_073, 0, 2_000_000]
    for (number, size) in sizes.enumerated() {
      let data = Value.binary(pattern(size, seed: UInt8(number)))
      #expect(try client.call("put", ["id": .id(UInt8(number)), "data": data]) == .success(nil))
    }
    let first = client.nextID
    var requests: [UInt8] = []
    for number in 0..<12 { requests += client.request("get", ["id": .id(UInt8(number % 6))]) }
    #expect(client.send(requests))
    let outcomes = try client.outcomes(12, from: first)
    for (number, outcome) in outcomes.enumerated() {
      #expect(outcome.result?.bytes == pattern(sizes[number % 6], seed: UInt8(number % 6)))
    }
  }

  @Test func `an answer stays whole when its object is deleted or replaced meanwhile`() throws {
    let client = try Place().client()
    let (old, new) = (pattern(8_000_000), pattern(3_000_000, seed: 5))
    #expect(try client.call("put", ["id": .id(1), "data": .binary(old)]) == .success(nil))
    let first = client.nextID
    var requests =
      client.request("get", ["id": .id(1)]) + client.request("put", ["id": .id(1), "data": .binary(new)])
    requests += client.request("get", ["id": .id(1)]) + client.request("delete", ["id": .id(1)])
    requests += client.request("get", ["id": .id(1), "raise_missing": false])
    #expect(client.send(requests))
    let results = try client.outcomes(5, from: first).map(\.result)
    #expect(results == [.binary(old), .nil, .binary(new), .nil, .nil])
  }
}
