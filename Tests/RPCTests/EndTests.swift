import TestKit
import BorgFormat
import Disk
import Glibc
import RPC
import Session
import Testing

/// A client whose check or lock wait has just begun.
private func untilRecord(_ client: Client, _ text: String) throws {
  while true {
    guard case .record(let record) = try #require(client.message()) else {
      Issue.record("an answer before the record")
      return
    }
    if record.message.hasPrefix(text) { return }
  }
}

struct EndTests {
  private static let all: @Sendable (inout RPCConnection.Configuration) -> Void = { $0.filter.level = .debug }

  /// A repository whose check takes a second: large files without content.
  private func slowPlace() throws -> Place {
    let place = try Place()
    #expect(try place.client().hangUp() == .closed)
    for number: UInt8 in 0..<200 {
      let name = Place.name(number)
      try place.write(name, Place.object(meta: 0, data: 0))
      let result = unsafe truncate(terminated(place.root.path + Array("/\(name)".utf8)), 20_000_000)
      try #require(result == 0)
      // The header announces all of it.
      let size = 20_000_000 - 24
      let descriptor = unsafe Glibc.open(terminated(place.root.path + Array("/\(name)".utf8)), O_WRONLY)
      let bytes = (0..<4).map { UInt8(truncatingIfNeeded: size >> ($0 * 8)) }
      let count = unsafe pwrite(descriptor, bytes, 4, 4)
      _ = close(descriptor)
      try #require(count == 4)
    }
    return place
  }

  // MARK: The client goes

  @Test(arguments: Channel.Kind.allCases)
  func `a client that hangs up with an open repository leaves no lock and nothing unfinished`(
    kind: Channel.Kind
  ) throws {
    let place = try Place()
    let client = try place.client(kind)
    #expect(try client.call("put", ["id": .id(1), "data": .binary([1])]) == .success(nil))
    #expect(client.hangUp() == .closed)
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
    #expect(try place.content(Place.name(1)) == [1])
  }

  @Test func `requests that arrived before the end are answered`() throws {
    let place = try Place()
    let client = try place.client()
    var requests: [UInt8] = []
    for number: UInt8 in 0..<50 {
      requests += client.request("put", ["id": .id(number), "data": .binary([number])])
    }
    let first = client.nextID - 50
    #expect(client.send(requests + client.request("close").dropLast()))
    let outcomes = try client.outcomes(50, from: first)
    #expect(outcomes.allSatisfy { $0 == .success(nil) })
    #expect(client.hangUp() == .closed)
    #expect(try place.client().call("list").result?.array?.count == 50)
  }

  @Test(arguments: [1, 20, 60, 100_000, 200_000])
  func `a client that hangs up in the middle of a request leaves nothing of it`(length: Int) throws {
    let place = try Place()
    let client = try place.client()
    let request = client.request(
      "put", ["id": .id(1), "data": .binary([UInt8](repeating: 1, count: 300_000))])
    #expect(client.send(Array(request.prefix(length))))
    #expect(client.hangUp() == .closed)
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
    #expect(try place.client().call("list") == .success([]))
  }

  @Test func `a client that was never there ends at once`() throws {
    #expect(try Client().hangUp() == .closed)
  }

  @Test func `a client that hangs up while it waits for a lock does not wait on`() throws {
    let place = try Place()
    let holder = try place.client()
    let client = try Client(configure: Self.all)
    #expect(client.send(client.request("open", ["path": place.path, "exclusive": true, "lock_wait": 3600])))
    try untilRecord(client, "Resolving")
    #expect(client.hangUp() == .closed)
    #expect(place.locks == 1)
    #expect(try holder.call("info").result != nil)
  }

  @Test func `a client that is gone while a check runs ends it`() throws {
    let place = try slowPlace()
    let client = try place.client(configure: Self.all)
    #expect(client.send(client.request("check")))
    try untilRecord(client, "Starting full")
    client.stopReading()
    // A real server looks twice a second.
    client.connection.tick()
    #expect(client.end(reading: false) == .broken)
    #expect(place.locks == 0)
  }

  @Test func `a client that takes no answers any more ends its connection`() throws {
    let place = try Place()
    let client = try place.client()
    client.stopReading()
    #expect(client.send(client.request("info")))
    #expect(client.end(reading: false) == .broken)
    #expect(place.locks == 0)
  }

  // MARK: Interruption

  @Test func `an idle connection is interrupted`() throws {
    let place = try Place()
    let client = try place.client()
    client.connection.interrupt()
    #expect(client.end() == .interrupted)
    #expect(place.locks == 0)
  }

  @Test func `an interruption before the connection runs ends it at once`() throws {
    let client = try Client()
    client.connection.interrupt()
    client.connection.interrupt()
    #expect(client.end() == .interrupted)
  }

  @Test func `a lock wait is interrupted`() throws {
    let place = try Place()
    let holder = try place.client()
    let client = try Client(configure: Self.all)
    #expect(client.send(client.request("open", ["path": place.path, "exclusive": true, "lock_wait": 3600])))
    try untilRecord(client, "Resolving")
    client.connection.interrupt()
    #expect(try client.reply().outcome.errorClass == "Error")
    #expect(client.end() == .interrupted)
    #expect(place.locks == 1)
    #expect(try holder.call("close") == .success(nil))
  }

  @Test func `a check is interrupted`() throws {
    let place = try slowPlace()
    let client = try place.client(configure: Self.all)
    #expect(client.send(client.request("check")))
    try untilRecord(client, "Starting full")
    client.connection.interrupt()
    #expect(try client.reply().outcome.errorClass == "Error")
    #expect(client.end() == .interrupted)
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
  }

  @Test func `an interruption in the middle of a large value is one`() throws {
    let place = try Place()
    let client = try place.client()
    let request = client.request(
      "put", ["id": .id(1), "data": .binary([UInt8](repeating: 1, count: 3_000_000))])
    #expect(client.send(Array(request.prefix(2_000_000))))
    client.connection.interrupt()
    #expect(client.end() == .interrupted)
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
  }

  /// Sends `get`s of a large object until the server takes no more, and reads none of the answers.
  private func clog(_ client: Client) throws {
    let data = Value.binary([UInt8](repeating: 1, count: 100_000))
    #expect(try client.call("put", ["id": .id(1), "data": data]) == .success(nil))
    var requests: [UInt8] = []
    for _ in 0..<20_000 { requests += client.request("get", ["id": .id(1)]) }
    #expect(!client.send(requests, within: .milliseconds(300)))
  }

  @Test(arguments: Channel.Kind.allCases)
  func `a client that stops reading and is interrupted is gone within the patience, and its lock too`(
    kind: Channel.Kind
  ) throws {
    let place = try Place()
    let client = try place.client(kind)
    try clog(client)
    client.connection.interrupt()
    #expect(client.hasEnded(within: .seconds(3)) == .interrupted)
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
  }

  @Test func `a client that stops reading and goes is gone`() throws {
    let place = try Place()
    let client = try place.client()
    try clog(client)
    client.stopReading()
    #expect(client.hasEnded(within: .seconds(3)) == .broken)
    #expect(place.locks == 0)
  }

  @Test func `a client that stops reading after it has hung up can be interrupted`() throws {
    let place = try Place()
    let client = try place.client()
    #expect(
      try client.call("put", ["id": .id(1), "data": .binary([UInt8](repeating: 1, count: 3_000_000))])
        == .success(nil))
    #expect(client.send(client.request("get", ["id": .id(1)])))
    client.stopSending()
    // Its repository is closed while its answers still wait.
    #expect(client.hasEnded(within: .milliseconds(100)) == nil)
    client.connection.interrupt()
    #expect(client.hasEnded(within: .seconds(3)) != nil)
    #expect(place.locks == 0)
  }

  @Test func `a client that sends rubbish and stops reading can be interrupted`() throws {
    let place = try Place()
    let client = try place.client()
    #expect(
      try client.call("put", ["id": .id(1), "data": .binary([UInt8](repeating: 1, count: 3_000_000))])
        == .success(nil))
    #expect(client.send(client.request("get", ["id": .id(1)]) + [0xc1]))
    #expect(client.hasEnded(within: .milliseconds(100)) == nil)
    client.connection.interrupt()
    #expect(client.hasEnded(within: .seconds(3)) != nil)
    #expect(place.locks == 0)
  }

  @Test func `a slow client that has sent everything gets all its answers`() throws {
    let place = try Place()
    let client = try place.client()
    #expect(
      try client.call("put", ["id": .id(1), "data": .binary([UInt8](repeating: 1, count: 50_000))])
        == .success(nil))
    let first = client.nextID
    var requests: [UInt8] = []
    for _ in 0..<600 { requests += client.request("get", ["id": .id(1)]) }
    #expect(client.send(requests))
    client.stopSending()
    // A real server looks twice a second.
    for _ in 0..<3 { client.connection.tick() }
    let outcomes = try client.outcomes(600, from: first)
    #expect(outcomes.allSatisfy { $0.result != nil })
    #expect(client.end() == .closed)
  }

  // MARK: Faults

  @Test(
    arguments: [
      [0x01], [0x90], Array("Welcome\n".utf8), [0xc0], [0xa1, 0x61], [0xd6, 0xff, 0, 0, 0, 0],
      [0xdd, 0x7f, 0xff, 0xff, 0xff],
    ] as [[UInt8]])
  func `what is no map ends the connection, the repository closed`(bytes: [UInt8]) throws {
    let place = try Place()
    let client = try place.client()
    #expect(client.send(client.request("info") + bytes))
    #expect(client.end() == .fault(.notAMap))
    #expect(place.locks == 0)
  }

  @Test(
    arguments: [
      [0xc1], [0x80], [0x81, 0xa1, 0x69, 0x01], [0xdf, 0xff, 0xff, 0xff, 0xff],
      [0x83, 0xa1, 0x69] + [UInt8](repeating: 0x91, count: 1100),
    ] as [[UInt8]])
  func `malformed data ends the connection, what came before it is answered`(bytes: [UInt8]) throws {
    let place = try Place()
    let client = try place.client()
    let id = client.nextID
    #expect(client.send(client.request("info") + bytes))
    #expect(try client.outcomes(1, from: id).first?.result != nil)
    let end = client.end()
    #expect({ if case .fault(.malformed)? = end { true } else { false } }())
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
  }

  @Test func `malformed data behind a large value leaves nothing of it`() throws {
    let place = try Place()
    let client = try place.client()
    let request = client.request(
      "put", ["data": .binary([UInt8](repeating: 1, count: 300_000)), "id": .id(1)])
    #expect(client.send(Array(request.dropLast(34)) + [0xc1]))
    let end = client.end()
    #expect({ if case .fault(.malformed)? = end { true } else { false } }())
    #expect(place.leftovers() == [])
  }

  @Test(arguments: UInt64(0)..<40)
  func `random changes to requests end in answers or a fault, never in a hang`(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    let place = try Place()
    let client = try place.client()
    var bytes = client.request("put", ["id": .id(1), "data": .binary(random.bytes(200))])
    bytes += client.request("get", ["id": .id(1)]) + client.request("store_list", ["name": "config"])
    for _ in 0..<Int.random(in: 1...3, using: &random) {
      bytes[Int.random(in: bytes.indices, using: &random)] ^= 1 << UInt8.random(in: 0..<8, using: &random)
    }
    _ = client.send(bytes)
    #expect(client.hangUp() != nil)
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
  }
}
