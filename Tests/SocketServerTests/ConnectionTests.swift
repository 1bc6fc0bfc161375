import BorgFormat
import Disk
import RPC
import Session
import SocketServer
import Testing

struct ConnectionTests {
  @Test func `weakness 4: many clients at once, each with its own repository`() throws {
    let marina = try Marina()
    let clients = try (0..<24).map { try marina.client("repository\($0)") }
    for (number, client) in clients.enumerated() {
      for object in 0..<20 {
        client.send(
          client.request("put", ["id": .id(UInt8(object)), "data": .binary([UInt8(number), UInt8(object)])]))
      }
    }
    for (number, client) in clients.enumerated() {
      for _ in 0..<20 { #expect(client.answer()?["r"] == Value.nil) }
      #expect(client.call("get", ["id": .id(3)])?["r"] == .binary([UInt8(number), 3]))
      #expect(client.call("close")?["r"] == Value.nil)
      #expect(marina.locks("repository\(number)") == 0)
    }
  }

  @Test func `weakness 4: clients of one repository share it, or wait for each other`() throws {
    let marina = try Marina()
    #expect(try marina.client().call("close") != nil)
    let readers = try (0..<16).map { _ in try marina.client(exclusive: false) }
    #expect(marina.locks() == 16)
    let writer = try SocketClient(of: marina.harbour)
    let open: KeyValuePairs<String, Value> = [
      "path": marina.path("repository"), "exclusive": true, "lock_wait": 0,
    ]
    #expect(writer.call("open", open)?["exception_class"]?.text == "LockTimeout")
    writer.send(
      writer.request("open", ["path": marina.path("repository"), "exclusive": true, "lock_wait": 20]))
    for reader in readers { #expect(reader.call("close")?["r"] == Value.nil) }
    #expect(writer.answer()?["r"]?.bytes?.count == 32)
    #expect(marina.locks() == 1)
  }

  @Test func `weakness 4: a client that queues requests and leaves hurts nobody`() throws {
    let marina = try Marina()
    let steady = try marina.client("steady")
    for _ in 0..<10 {
      let leaving = try marina.client("left")
      var requests: [UInt8] = []
      for object in 0..<50 {
        requests += leaving.request("put", ["id": .id(UInt8(object)), "data": .binary([1])])
      }
      leaving.send(requests)
      leaving.hangUp()
    }
    #expect(marina.harbour.journal.has("Finished", times: 10))
    #expect(marina.locks("left") == 0)
    #expect(steady.call("info")?["r"] != nil)
  }

  @Test(
    arguments: [
      [0xc1], [0x01], Array("GET / HTTP/1.1\r\n\r\n".utf8), [0xdd, 0x7f, 0xff, 0xff, 0xff], [0x83],
    ]
      as [[UInt8]])
  func `weakness 4: garbage ends its own connection only`(bytes: [UInt8]) throws {
    let marina = try Marina()
    let steady = try marina.client("steady")
    let other = try marina.client("other")
    other.send(bytes)
    if bytes == [0x83] { other.hangUp() }
    #expect(other.isHungUpOn())
    #expect(marina.harbour.journal.has("Finished"))
    #expect(marina.locks("other") == 0)
    #expect(steady.call("info")?["r"] != nil)
    #expect(try marina.client("other").call("info")?["r"] != nil)
  }

  @Test func `weakness 4: a client that stalls in the middle of a message holds up nobody`() throws {
    let marina = try Marina()
    let stalled = try (0..<10).map { try marina.client("stalled\($0)") }
    for client in stalled {
      client.send(
        Array(
          client.request("put", ["id": .id(1), "data": .binary([UInt8](repeating: 1, count: 300_000))])
            .prefix(200_000)))
    }
    let steady = try marina.client("steady")
    #expect(steady.call("info")?["r"] != nil)
    #expect(marina.harbour.stop())
    for number in 0..<10 { #expect(marina.locks("stalled\(number)") == 0) }
  }

  @Test func `a client that reads none of its answers does not hold up a stop`() throws {
    let marina = try Marina()
    let client = try marina.client()
    let data = Value.binary([UInt8](repeating: 1, count: 100_000))
    #expect(client.call("put", ["id": .id(1), "data": data])?["r"] == Value.nil)
    for _ in 0..<200 { client.send(client.request("get", ["id": .id(1)])) }
    let started = ContinuousClock.now
    #expect(marina.harbour.stop())
    #expect(ContinuousClock.now - started < .seconds(5))
    #expect(marina.locks() == 0)
    #expect(marina.inputs.isEmpty)
    withExtendedLifetime(client) {}
  }

  @Test func `nothing of a connection is left once it has ended, however it did`() throws {
    let marina = try Marina()
    let ends: [(SocketClient) -> Void] = [
      { $0.hangUp() }, { $0.send([0xc1]) }, { $0.send([0x01]) },
      {
        #expect($0.call("close") != nil); $0.hangUp()
      },
      {
        $0.send($0.request("put", ["id": .id(1), "data": .binary([UInt8](repeating: 1, count: 300_000))]));
        $0.hangUp()
      },
      {
        $0.send(Array($0.request("put", ["id": .id(1), "data": .binary([1])]).dropLast())); $0.hangUp()
      },
    ]
    for (number, end) in ends.enumerated() {
      let client = try marina.client()
      end(client)
      #expect(marina.harbour.journal.has("Finished", times: number + 1))
    }
    let limit = ContinuousClock.now + deadline
    while !marina.inputs.isEmpty, ContinuousClock.now < limit { Host.pause(.milliseconds(1)) }
    #expect(marina.inputs.isEmpty)
  }

  @Test func `weakness 5: nothing of one connection is known to the next`() throws {
    let marina = try Marina()
    let first = try marina.client()
    #expect(first.call("get", ["id": .id(9), "raise_missing": false])?["r"] == Value.nil)
    first.hangUp()
    #expect(marina.harbour.journal.has("Finished"))
    // What a repository has to be open for is no method before one was.
    let second = try SocketClient(of: marina.harbour)
    #expect(second.call("get", ["id": .id(9)])?["exception_class"]?.text == "InvalidRPCMethod")
    #expect(second.call("info")?["exception_class"]?.text == "InvalidRPCMethod")
  }

  @Test func `a client beyond the limit reads why in the answer to its open`() throws {
    var bounds = SocketServer.Bounds()
    (bounds.connections, bounds.grace) = (1, .zero)
    let marina = try Marina(bounds: bounds)
    let first = try marina.client()
    let second = try SocketClient(of: marina.harbour)
    let version: Value = .array([2, 0, 0, -3, 18])
    let hello = second.call("negotiate", ["client_data": .named(["client_version": version])])
    #expect(hello?["r"] != nil)
    let answer = second.call("open", ["path": marina.path("repository"), "lock_wait": 1])
    #expect(answer?["exception_args"]?.array == ["too many"])
    #expect(first.call("info")?["r"] != nil)
    first.hangUp()
    second.hangUp()
    #expect(marina.harbour.journal.has("Finished", times: 2))
    while marina.harbour.count > 0 { Host.pause(.milliseconds(1)) }
    _ = try marina.client()
  }

  @Test func `a client that says nothing for too long is ended, its lock released, and it is told of`() throws
  {
    let marina = try Marina { $0.idleTimeout = .milliseconds(300) }
    let client = try marina.client()
    #expect(client.isHungUpOn())
    #expect(marina.locks() == 0)
    #expect(marina.told.has("#1: the connection ends because nothing has happened"))
    #expect(marina.harbour.journal.has("idle"))
  }

  @Test func `a client that takes no answers for too long is ended too`() throws {
    let marina = try Marina { $0.idleTimeout = .seconds(1) }
    let client = try marina.client()
    let data = Value.binary([UInt8](repeating: 1, count: 100_000))
    #expect(client.call("put", ["id": .id(1), "data": data])?["r"] == Value.nil)
    for _ in 0..<200 { client.send(client.request("get", ["id": .id(1)])) }
    #expect(marina.harbour.journal.has("idle"))
    #expect(marina.locks() == 0)
    withExtendedLifetime(client) {}
  }

  @Test func `a client that waits for a lock is not idle`() throws {
    let marina = try Marina { $0.idleTimeout = .milliseconds(800) }
    let waiting = try SocketClient(of: marina.harbour)
    let holder = try marina.client()
    waiting.send(
      waiting.request("open", ["path": marina.path("repository"), "exclusive": true, "lock_wait": 20]))
    // The holder says nothing, is ended for that, and makes room.
    #expect(waiting.answer()?["r"]?.bytes?.count == 32)
    withExtendedLifetime(holder) {}
  }

  @Test func `weakness 22: what goes wrong at the end of a connection is told, with its number`() throws {
    let marina = try Marina()
    let first = try marina.client("sound")
    let client = try marina.client()
    #expect(client.call("put", ["id": .id(1), "data": .binary([1])])?["r"] == Value.nil)
    // The object is staged; its file goes before it can be given its name.
    let areas = "repository/data/borg-serve.tmp"
    for area in try marina.repositories.directory.directory(areas).entries() {
      try marina.repositories.directory.removeTree("\(areas)/\(area)")
    }
    client.hangUp()
    #expect(marina.told.has("#2: closing the repository failed"))
    #expect(marina.locks() == 0)
    #expect(first.call("info")?["r"] != nil)
  }
}
