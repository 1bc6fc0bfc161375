import TestKit
import BorgFormat
import Testing

struct LockRecordTests {
  static let recorded = Recorded.rows(Recorded.locks, columns: 7)
  static let sample = LockRecord(
    isExclusive: true, hostID: "vm@3281355014145", processID: 23927,
    time: Timestamp(milliseconds: 1_795_397_818_578))

  static func record(_ row: [String]) throws -> LockRecord {
    LockRecord(
      isExclusive: row[1] == "1", hostID: String(decoding: try [UInt8](recorded: row[5]), as: UTF8.self),
      processID: try #require(Int(row[2])), threadID: try #require(Int(row[3])),
      time: Timestamp(milliseconds: try #require(Int64(row[4]))))
  }

  func parse(_ text: String) throws -> LockRecord { try LockRecord(parsing: Array(text.utf8).span) }

  // MARK: Text

  @Test(arguments: recorded)
  func `a record has the text and the key that borg gives it, and comes back`(row: [String]) throws {
    let record = try Self.record(row)
    #expect(String(decoding: record.encoded, as: UTF8.self) == row[6])
    #expect(record.key == row[0])
    #expect(try parse(row[6]) == record)
  }

  @Test func `every prefix is truncated`() {
    for prefix in Self.sample.encoded.prefixes {
      #expect(throws: LockRecordError.json(.truncated)) { try LockRecord(parsing: prefix) }
    }
  }

  @Test func `a flipped bit is refused, or is a record that can be written again`() throws {
    for row in Self.recorded {
      for text in try Self.record(row).encoded.withEachBitFlipped {
        guard let record = try? LockRecord(parsing: text) else { continue }
        // Not the records themselves: an offset may put the time before the year 1, which cannot be written.
        #expect(try LockRecord(parsing: record.encoded).encoded == record.encoded)
      }
    }
  }

  @Test(arguments: randomSeeds)
  func `random bytes in place of others never trap`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<300 {
      var text = Self.sample.encoded
      for _ in 0..<3 {
        text[Int.random(in: 0..<text.count, using: &random)] = UInt8.random(in: .min ... .max, using: &random)
      }
      _ = try? LockRecord(parsing: text)
    }
  }

  @Test(arguments: [
    #"{"time":"2026-11-23T01:36:58.578Z","threadid":0,"processid":23927,"hostid":"vm@3281355014145","exclusive":true}"#,
    """
    { "exclusive" : true , "hostid" : "vm\\u00403281355014145",\r\n\t"processid" : 23927,
    "threadid" : 0 , "time" : "2026-11-23 02:36:58.578+01:00" }\n
    """,
    #"{"note":{"a":[1,2.5,null,"x"]},"exclusive":true,"hostid":"vm@3281355014145","processid":23927,"threadid":0,"time":"2026-11-23T01:36:58.578"}"#,
    #"{"exclusive":false,"exclusive":true,"hostid":"vm@3281355014145","processid":1,"processid":23927,"threadid":0,"time":"20261123T013658,578"}"#,
  ])
  func `order, spacing, other members and other forms of the time do not matter`(text: String) throws {
    #expect(try parse(text) == Self.sample)
  }

  @Test(arguments: LockRecord.Field.allCases)
  func `each field is needed, and of its type`(field: LockRecord.Field) {
    let text = String(decoding: Self.sample.encoded, as: UTF8.self)
    let name = "\"\(field.rawValue)\""
    #expect(throws: LockRecordError.fieldMissing(field)) {
      try parse(replacing(name, by: "\"other\"", in: text))
    }
    for value in ["null", "[]", "{}", "1.5", "1e400", "9223372036854775808"] {
      #expect(throws: LockRecordError.fieldInvalid(field)) {
        try parse(text.dropLast() + ", \(name): \(value)}")
      }
    }
  }

  private func replacing(_ old: String, by new: String, in text: String) -> String {
    var copy = text
    if let range = text.firstRange(of: old) { copy.replaceSubrange(range, with: new) }
    return copy
  }

  @Test func `a time that is none is refused`() {
    let text = String(decoding: Self.sample.encoded, as: UTF8.self)
    #expect(throws: LockRecordError.fieldInvalid(.time)) {
      try parse(replacing("2026-11", by: "2026-13", in: text))
    }
  }

  @Test(arguments: ["[]", "1", "\"\"", "null", "{}"])
  func `another value is no record`(text: String) {
    #expect(throws: LockRecordError.fieldMissing(.exclusive)) { try parse(text) }
  }

  @Test func `64 KiB are read and no more`() throws {
    let text = String(decoding: Self.sample.encoded, as: UTF8.self)
    let blanks = String(repeating: " ", count: 65536 - text.utf8.count)
    #expect(try parse(blanks + text) == Self.sample)
    #expect(throws: LockRecordError.json(.tooLarge(limit: 65536))) { try parse(blanks + text + " ") }
  }

  @Test func `the extremes can be written`() throws {
    let record = LockRecord(
      isExclusive: false, hostID: "", processID: .min, threadID: .max, time: Timestamp(milliseconds: .max))
    let copy = try LockRecord(parsing: record.encoded)
    #expect(copy.processID == .min && copy.threadID == .max)
  }

  @Test func `bytes of a host id that are not UTF-8 are replaced`() {
    let bytes: [UInt8] = [0x61, 0xFF, 0x62]
    #expect(LockRecord.hostID(decoding: bytes) == "a\u{FFFD}b")
  }

  // MARK: Age

  static let half = Int64(1_800_000)

  /// Asks about a lock of `own` at age `age`, and notes which processes were asked for.
  func isStale(_ lock: LockRecord, age: Int64, own: String = "vm@3281355014145", alive: Bool) -> (
    Bool, asked: [Int]
  ) {
    var asked: [Int] = []
    let now = Timestamp(milliseconds: lock.time.milliseconds + age)
    let stale = lock.isStale(now: now, hostID: own) {
      asked.append($0)
      return alive
    }
    return (stale, asked)
  }

  @Test(arguments: [(half, false), (half + 1, true), (0, false), (-half * 2, false)])
  func `a lock is stale after half an hour, even of a living process`(age: Int64, stale: Bool) {
    #expect(isStale(Self.sample, age: age, alive: true).0 == stale)
    #expect(isStale(Self.sample, age: age, own: "other", alive: false).0 == stale)
  }

  @Test func `a lock of this host is stale once its process is dead`() {
    #expect(isStale(Self.sample, age: 0, alive: false) == (true, [23927]))
    #expect(isStale(Self.sample, age: 0, alive: true) == (false, [23927]))
  }

  @Test(arguments: [Int.min, -1, 0, Int(Int32.max) + 1, .max])
  func `a number that names no process is never asked for`(processID: Int) {
    var lock = Self.sample
    lock.processID = processID
    #expect(isStale(lock, age: 0, alive: false) == (false, []))
  }

  @Test(arguments: [-1, 1, Int.max])
  func `a lock of a thread is left to its age`(threadID: Int) {
    var lock = Self.sample
    lock.threadID = threadID
    #expect(isStale(lock, age: 0, alive: false) == (false, []))
    #expect(isStale(lock, age: Self.half + 1, alive: true).0)
  }

  @Test(arguments: [("e\u{301}@1", "\u{E9}@1"), ("a\u{FFFD}", "a\u{FFFD}"), ("VM@1", "vm@1"), ("vm@1", "")])
  func `a host that is not surely this one is another`(host: String, own: String) {
    var lock = Self.sample
    lock.hostID = host
    #expect(isStale(lock, age: 0, own: own, alive: false) == (false, []))
  }
}
