import BorgFormat
import Disk
import Glibc
import RPC
import Testing

/// What the original does badly: the rows of section 8 of its server's reference, as far as they concern a
/// connection. Signals' exit codes (2) and sockets (4, 5) belong to the process.
struct WeaknessTests {
  @Test(arguments: ["hangup", "broken output", "interruption", "rubbish"])
  func `weakness 1: however a connection ends, it leaves no lock`(end: String) throws {
    let place = try Place()
    let client = try place.client()
    #expect(place.locks == 1)
    switch end {
    case "hangup": #expect(client.hangUp() == .closed)
    case "broken output":
      client.stopReading()
      #expect(client.send(client.request("info")))
      #expect(client.end(reading: false) == .broken)
    case "interruption":
      client.connection.interrupt()
      #expect(client.end() == .interrupted)
    default:
      #expect(client.send([0x01]))
      #expect(client.end() == .fault(.notAMap))
    }
    #expect(place.locks == 0)
    #expect(place.leftovers() == [])
  }

  @Test func `weakness 3: a large answer arrives whole through a socket that takes little at a time`() throws
  {
    let client = try Place().client(.socket)
    let data = [UInt8](repeating: 7, count: 20_000_000)
    #expect(try client.call("put", ["id": .id(1), "data": .binary(data)]) == .success(nil))
    let first = client.nextID
    #expect(client.send(client.request("get", ["id": .id(1)]) + client.request("info")))
    let outcomes = try client.outcomes(2, from: first)
    #expect(outcomes[0].result?.bytes == data)
    #expect(outcomes[1].result?["version"] == 3)
  }

  // That they do not wait for its end either is what interrupting a check shows, in `EndTests`.
  @Test func `weakness 9: records of a check come before its result`() throws {
    let place = try Place()
    #expect(try place.client().hangUp() == .closed)
    for number: UInt8 in 0..<20 { try place.write(Place.name(number), [number]) }
    let client = try place.client { $0.filter.level = .info }
    #expect(client.send(client.request("check")))
    #expect(try client.reply().outcome == .success(false))
    let records = client.records.filter { $0.logger == "borg.repository" }
    #expect(records.count == 25)
    #expect(records.last?.message == "Finished full repository check, errors found.")
  }

  @Test
  func
    `weakness 10: a page of a listing begins behind its marker, wherever that is, whether it is there or not`()
    throws
  {
    let place = try Place()
    let client = try place.client()
    for number: UInt8 in 0..<50 {
      #expect(try client.call("put", ["id": .id(number * 4), "data": .binary([])]) == .success(nil))
    }
    var found: [Value] = []
    while true {
      let page = try #require(
        try client.call("list", ["limit": 7, "marker": found.last ?? nil]).result?.array)
      found += page.compactMap { $0.array?.first }
      if page.count < 7 { break }
    }
    #expect(found == (0..<50).map { .id($0 * 4) })
    #expect(try client.call("list", ["limit": 1, "marker": .id(9)]) == .success([[.id(12), 0]]))
    #expect(try client.call("delete", ["id": .id(12)]) == .success(nil))
    #expect(try client.call("list", ["limit": 1, "marker": .id(12)]) == .success([[.id(16), 0]]))
    #expect(try client.call("list", ["marker": .id(255)]) == .success([]))
  }

  @Test func `weakness 12: waiting in vain for an exclusive lock leaves none behind`() throws {
    let place = try Place()
    let holder = try place.client(exclusive: false)
    let client = try Client()
    for wait: Value in [0, 0.3] {
      let outcome = try client.call("open", ["path": place.path, "exclusive": true, "lock_wait": wait])
      #expect(outcome == .failure("LockTimeout", [place.path]))
      #expect(place.locks == 1)
    }
    #expect(try holder.call("close") == .success(nil))
    #expect(try client.call("open", ["path": place.path, "exclusive": true, "lock_wait": 0]).result != nil)
  }

  @Test(arguments: ["{}", "no json", "[]", "\u{0}\u{0}\u{0}", "", "{\"exclusive\": true}"])
  func `weakness 13: a malformed lock keeps nobody out, and can be broken`(content: String) throws {
    let place = try Place()
    #expect(try place.client().hangUp() == .closed)
    try place.write("repository/locks/0123456789abcdef", Array(content.utf8))
    let client = try place.client()
    #expect(client.records.contains { $0.message.contains("locks/0123456789abcdef") })
    #expect(try client.call("break_lock") == .success(nil))
    #expect(place.locks == 0)
  }

  @Test func `weakness 14: without time to wait there is one attempt, and waits do not overshoot`() throws {
    let place = try Place()
    let client = try place.client()
    let other = try Client()
    let started = ContinuousClock.now
    #expect(try other.call("open", ["path": place.path, "lock_wait": 0]).errorClass == "LockTimeout")
    #expect(try other.call("open", ["path": place.path, "lock_wait": 0.4]).errorClass == "LockTimeout")
    let waited = ContinuousClock.now - started
    #expect(waited >= .milliseconds(400) && waited < .milliseconds(1400))
    #expect(client.hangUp() == .closed)
    #expect(try other.call("open", ["path": place.path, "lock_wait": 0]).result != nil)
  }

  @Test func `weakness 14: a waiting open goes on as soon as the lock is free`() throws {
    let place = try Place()
    let holder = try place.client()
    let client = try Client { $0.filter.level = .debug }
    #expect(client.send(client.request("open", ["path": place.path, "exclusive": true, "lock_wait": 60])))
    _ = try #require(client.message())
    let started = ContinuousClock.now
    #expect(try holder.call("close") == .success(nil))
    #expect(try client.reply().outcome.result != nil)
    #expect(ContinuousClock.now - started < .seconds(5))
  }

  @Test func `weakness 15: locks that vanish while they are read are no error`() throws {
    let place = try Place()
    #expect(try place.client().hangUp() == .closed)
    let locks = try place.root.directory.directory("repository/locks")
    let stop = Monitor(false)
    let churning = try Background {
      var process = 1
      while !stop.withLock({ $0 }) {
        process += 1
        let record = LockRecord(
          isExclusive: false, hostID: "elsewhere@2", processID: process,
          time: Timestamp(milliseconds: Host.now()))
        if let file = try? locks.create(record.key) {
          try? file.write(record.encoded, 0..<record.encoded.count, at: 0)
        }
        _ = try? locks.remove(record.key)
      }
    }
    let client = try Client()
    for _ in 0..<40 {
      let outcome = try client.call("open", ["path": place.path, "exclusive": false, "lock_wait": 1])
      #expect(outcome.result != nil, "\(outcome)")
      #expect(try client.call("close") == .success(nil))
    }
    stop.update { $0 = true }
    #expect(churning.value() != nil)
  }

  @Test(arguments: [0, 1, 2, 3, 31, 33, 64])
  func `weakness 17: an id of another length is refused and breaks nothing`(length: Int) throws {
    let client = try Place().client()
    let id = Value.binary([UInt8](repeating: 1, count: length))
    #expect(try client.call("put", ["id": id, "data": .binary([1])]).errorClass == "ValueError")
    #expect(try client.call("get", ["id": id]).errorClass == "ObjectNotFound")
    #expect(try client.call("check") == .success(true))
    #expect(try client.call("list") == .success([]))
  }

  @Test(arguments: [
    "x", "00/x", "00/00/zz", "00/00/0000", "00/ff/\(String(repeating: "00", count: 32))",
    "00/00/\(String(repeating: "AA", count: 32))", "README",
  ])
  func `weakness 17: a foreign file in data breaks neither list nor check`(name: String) throws {
    let place = try Place()
    let client = try place.client()
    #expect(
      try client.call("put", ["id": .id(1), "data": .binary(Place.object(meta: 1, data: 1))]) == .success(nil)
    )
    #expect(client.hangUp() == .closed)
    try place.write("repository/data/\(name)", [1])
    let next = try place.client()
    #expect(try next.call("list") == .success([[.id(1), 26]]))
    #expect(try next.call("check") == .success(true))
    #expect(next.records.contains { $0.level == 30 && $0.message.contains("data/\(name)") })
    #expect(place.entries("repository/data")?.isEmpty == false)
    #expect(try place.content("repository/data/\(name)") == [1])
  }

  @Test(arguments: [
    "config/a\u{1}", "config//x", "config/./x", "config/x\n", "config/x.tmp", "cache/x.hid", "config/x/",
    "config/", "archives/.",
  ])
  func `weakness 18: names that would hide or mislead are refused`(name: String) throws {
    let place = try Place()
    let client = try place.client()
    #expect(
      try client.call("store_store", ["name": .text(name), "value": .binary([1])]).errorClass == "ValueError")
    #expect(
      try client.call("store_move", ["name": "config/readme", "new_name": .text(name)]).errorClass
        == "ValueError")
    #expect(place.entries("repository/config")?.contains("readme") == true)
    #expect(client.hangUp() == .closed)
    #expect(place.leftovers() == [])
  }

  @Test
  func `weakness 19: a header that announces two thousand million elements takes no memory and no time`()
    throws
  {
    let place = try Place()
    let started = ContinuousClock.now
    for bomb: [UInt8] in [
      [0xdd, 0x7f, 0xff, 0xff, 0xff], [0xdf, 0x7f, 0xff, 0xff, 0xff],
      [0x83, 0xa1, 0x69, 0xdd, 0x7f, 0xff, 0xff, 0xff],
    ] {
      let client = try place.client()
      #expect(client.send(bomb))
      #expect(client.end() != nil)
      #expect(place.locks == 0)
    }
    #expect(ContinuousClock.now - started < .seconds(5))
  }

  @Test
  func `weakness 20: what could not be stored leaves no temporary file, not even while the connection lasts`()
    throws
  {
    let place = try Place()
    let client = try place.client()
    try place.root.directory.makeDirectories("repository/archives/taken/x")
    let large = Value.binary([UInt8](repeating: 1, count: 300_000))
    for value: Value in [.binary([1]), large, "text", nil, .string([UInt8](repeating: 1, count: 300_000))] {
      #expect(try client.call("store_store", ["name": "archives/taken", "value": value]).errorClass != nil)
      #expect(try client.call("put", ["id": .binary([1]), "data": value]).errorClass != nil)
    }
    #expect(place.staged == [])
    #expect(client.hangUp() == .closed)
    #expect(place.leftovers() == [])
  }

  @Test func `weakness 21: errors about anything a client can send are answered`() throws {
    let client = try Place().client()
    let odd: [Value] = [
      .string([0xff, 0xfe]), .string([0]), .text(String(repeating: "x", count: 4000)),
      .text("a\u{202e}\n\u{1b}[0m"),
    ]
    for text in odd {
      guard case .string(let bytes) = text else { continue }
      let method = Value.named(["i": text, "m": text, "a": .named(["id": text])]).encoded
      #expect(client.send(method))
      let reply = try client.reply()
      #expect(reply.id == .string(bytes))
      #expect(reply.outcome.errorClass == "InvalidRPCMethod")
      #expect(try client.call("store_load", ["name": text]).errorClass == "KeyError")
      #expect(try client.call("inject_exception", ["kind": text]) == .success(nil))
    }
    for text in odd {
      #expect(try client.call("open", ["path": text, "lock_wait": 0]).errorClass != nil)
    }
  }

  @Test func `weakness 23: destroying keeps foreign files`() throws {
    let place = try Place()
    let client = try place.client()
    try place.write("repository/photos/one.jpeg", [1, 2])
    #expect(try client.call("destroy") == .success(nil))
    #expect(place.entries("repository") == ["photos"])
    #expect(try place.content("repository/photos/one.jpeg") == [1, 2])
  }

  @Test func `weakness 25: a second open closes the first repository and frees its lock`() throws {
    let place = try Place()
    let client = try place.client()
    let other = Value.string(place.root.path + Array("/other".utf8))
    #expect(
      try client.call("open", ["path": other, "create": true, "exclusive": true, "lock_wait": 1]).result
        != nil)
    #expect(place.locks == 0)
    #expect(place.entries("other/locks")?.filter { !$0.hasSuffix(".tmp") }.count == 1)
    #expect(try client.call("open", ["path": place.path, "exclusive": true, "lock_wait": 1]).result != nil)
    #expect(try client.call("open", ["path": place.path, "exclusive": true, "lock_wait": 1]).result != nil)
    #expect(place.locks == 1)
    #expect(place.entries("other/locks") == [])
    #expect(try client.call("close") == .success(nil))
    #expect(place.locks == 0)
  }
}
