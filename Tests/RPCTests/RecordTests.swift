import BorgFormat
import Disk
import RPC
import Testing

struct RecordTests {
  private func levels(_ level: LogLevel, topics: [String] = []) -> (inout RPCConnection.Configuration) -> Void
  {
    { $0.filter = LogFilter(level: level, debugTopics: topics) }
  }

  @Test func `a check reports in the original's words, all of it before its result`() throws {
    let place = try Place()
    let client = try place.client(configure: levels(.info))
    #expect(
      try client.call("put", ["id": .id(1), "data": .binary(Place.object(meta: 3, data: 4))]) == .success(nil)
    )
    var damaged = Place.object(meta: 3, data: 4)
    damaged[30] ^= 1
    #expect(try client.call("put", ["id": .id(2), "data": .binary(damaged)]) == .success(nil))
    #expect(try client.call("check") == .success(false))
    let hex = String(repeating: "02", count: 32)
    #expect(
      client.records.filter { $0.logger == "borg.repository" } == [
        Record(level: 20, logger: "borg.repository", message: "Starting full repository check"),
        Record(level: 20, logger: "borg.repository", message: "Starting from beginning."),
        Record(
          level: 40, logger: "borg.repository",
          message: "Repo object \(hex) is corrupted: data does not match checksum."),
        Record(level: 20, logger: "borg.repository", message: "Finished repository check."),
        Record(level: 20, logger: "borg.repository", message: "Checked 2 repository objects, 1 errors."),
        Record(
          level: 40, logger: "borg.repository", message: "Finished full repository check, errors found."),
      ])
    #expect(try client.call("check", ["repair": true]) == .success(true))
    #expect(
      client.records.last { $0.logger == "borg.repository" }?.message.hasSuffix("found and repaired.") == true
    )
    #expect(try client.call("list") == .success([[.id(1), 31]]))
    #expect(try client.call("check") == .success(true))
  }

  @Test func `a check tells how far it has come, and when it is over`() throws {
    let client = try Place().client()
    for number: UInt8 in [0, 100, 200] {
      let object = Value.binary(Place.object(meta: 0, data: 0))
      #expect(try client.call("put", ["id": .id(number), "data": object]) == .success(nil))
    }
    #expect(try client.call("check") == .success(true))
    let progress = client.records.filter { $0.logger == "borg.output.progress" }
    #expect(progress.count == 4 && progress.allSatisfy { $0.level == 20 })
    for (record, part) in zip(
      progress, ["repository objects 0%", "objects 39%", "objects 78%", "\"message\": \"\""])
    {
      #expect(record.message.contains(part), "\(record.message)")
      let json = Array(record.message.utf8)
      #expect(throws: Never.self) { try JSON(parsing: json.span) }
    }
    #expect(progress.map { $0.message.contains("\"finished\": true") } == [false, false, false, true])
  }

  @Test func `partial checks go on where the last one ended`() throws {
    let place = try Place()
    let client = try place.client(configure: levels(.info))
    for number: UInt8 in 1...3 {
      let object = Value.binary(Place.object(meta: 1, data: 1))
      #expect(try client.call("put", ["id": .id(number), "data": object]) == .success(nil))
    }
    for number in 1...3 {
      #expect(try client.call("check", ["max_duration": 1e-9]) == .success(true))
      let hex = String(repeating: "0\(number)", count: 32)
      #expect(try place.content("repository/cache/last-key-checked") == Array("data/\(hex)".utf8))
    }
    #expect(try client.call("check", ["max_duration": 3600]) == .success(true))
    #expect(place.entries("repository/cache")?.contains("last-key-checked") == false)
    #expect(try client.call("check", ["max_duration": 1, "repair": true]).errorClass == "ValueError")
  }

  @Test(arguments: [
    (LogLevel.info, [], true), (.warning, [], false), (.error, [], false), (.debug, [], true),
    (.warning, ["borg.repository"], true), (.warning, ["borg"], true), (.warning, ["borg.repo"], false),
    (.warning, ["borg.repository.x"], false),
  ])
  func `records are filtered by level and topic`(level: LogLevel, topics: [String], isWanted: Bool) throws {
    let client = try Place().client(configure: levels(level, topics: topics))
    #expect(try client.call("check") == .success(true))
    #expect(client.records.contains { $0.logger == "borg.repository" } == isWanted)
    #expect(client.records.contains { $0.logger == "borg.output.progress" })
  }

  @Test func `records from before the first request come before its answer`() throws {
    let client = try Client()
    client.connection.log(.warning, .serve, "first")
    client.connection.log(.info, .serve, "not wanted")
    client.connection.log(.info, .showVersion, "second 100% {}")
    // Nothing is sent to what may be no client of ours.
    #expect(client.message(within: .milliseconds(10)) == nil)
    #expect(try client.call("close") == .success(nil))
    #expect(
      client.records == [
        Record(level: 30, logger: "borg.serve", message: "first"),
        Record(level: 20, logger: "borg.output.show-version", message: "second 100% {}"),
      ])
  }

  @Test func `a record has all that Python makes one of`() throws {
    let client = try Client()
    client.connection.log(.error, .serve, "ü")
    #expect(client.send(client.request("close")))
    guard case .record = try #require(client.message()) else {
      Issue.record("no record first")
      return
    }
    let expected = Value.named([
      "l": .named([
        "name": "borg.serve", "level": 40, "pathname": "", "lineno": 0, "msg": "ü", "args": [],
        "exc_info": nil,
        "func": nil, "sinfo": nil,
      ])
    ])
    #expect(client.lastBytes == expected.encoded)
  }

  @Test func `destroying says what it kept before its answer`() throws {
    let place = try Place()
    let client = try place.client()
    try place.write("repository/photo.jpeg", [1])
    #expect(try client.call("destroy") == .success(nil))
    #expect(client.records.map(\.message) == ["Kept what does not belong to the repository: photo.jpeg"])
  }
}
