import BorgFormat
import TestKit
import Testing

struct HintsTests {
  static let recorded = Recorded.rows(Recorded.hints)

  private func numbers(_ column: String) throws -> [UInt32: Int] {
    var numbers: [UInt32: Int] = [:]
    for pair in column.split(separator: ",") {
      let parts = pair.split(separator: ":")
      let segment = try #require(UInt32(parts[0]))
      numbers[segment] = try #require(Int(parts[1]) as Int?)
    }
    return numbers
  }

  @Test(arguments: recorded)
  func `hints are read as borg reads them`(row: [String]) throws {
    let parsed = try Hints.parse(try [UInt8](recorded: row[0]))
    guard row[1] == "2" else {
      let compact = row[3].split(separator: ",").compactMap { UInt32($0) }
      #expect(parsed == .versionOne(segments: try numbers(row[2]), compact: compact))
      return
    }
    var expected = Hints()
    expected.segments = try numbers(row[2])
    expected.compact = try numbers(row[3])
    expected.storageQuotaUse = try #require(Int(row[4]))
    for pair in row[5].split(separator: ",") {
      let parts = pair.split(separator: ":", omittingEmptySubsequences: false)
      expected.shadowIndex[try ObjectID(recorded: parts[0])] = parts[1].split(separator: "/").compactMap {
        UInt32($0)
      }
    }
    #expect(parsed == .current(expected))
  }

  @Test(arguments: recorded.filter { $0[1] == "2" })
  func `hints are written as borg writes the same in ascending order`(row: [String]) throws {
    let hints = try Hints(parsing: try [UInt8](recorded: row[0]))
    #expect(hints.encode() == (try [UInt8](recorded: row[6])))
    #expect(try Hints(parsing: hints.encode()) == hints)
  }

  @Test func `version 1 is unknown to whoever wants the current one`() throws {
    let row = try #require(Self.recorded.first { $0[1] == "1" })
    let bytes = try [UInt8](recorded: row[0])
    #expect(throws: HintsFault.unknownVersion(1)) { try Hints(parsing: bytes) }
  }

  @Test func `a later version is named`() {
    var writer = MessagePackWriter()
    writer.map(count: 1)
    writer.rawString("version")
    writer.int(3)
    #expect(throws: HintsFault.unknownVersion(3)) { try Hints.parse(writer.bytes) }
  }

  @Test(arguments: recorded.filter { $0[0].count < 1000 })
  func `damaged hints are read or refused, whatever is damaged`(row: [String]) throws {
    for bytes in damaged(try [UInt8](recorded: row[0])) { _ = try? Hints.parse(bytes) }
    for prefix in try [UInt8](recorded: row[0]).prefixes {
      #expect(throws: HintsFault.self) { try Hints.parse(prefix) }
    }
  }

  @Test(arguments: ["segments", "compact", "shadow_index"], [0xdd, 0xdf] as [UInt8])
  func `what announces more than there is takes no memory`(name: String, head: UInt8) {
    var writer = MessagePackWriter()
    writer.map(count: 5)
    writer.rawString(name)
    #expect(throws: HintsFault.self) { try Hints.parse(writer.bytes + [head, 0xff, 0xff, 0xff, 0xff]) }
  }

  @Test func `what is no number, no segment, no id or not there is refused`() {
    func parse(_ write: (inout MessagePackWriter) -> Void) -> HintsFault? {
      var writer = MessagePackWriter()
      write(&writer)
      do {
        _ = try Hints.parse(writer.bytes)
        return nil
      } catch { return error }
    }
    func hints(_ name: String, _ value: (inout MessagePackWriter) -> Void) -> HintsFault? {
      parse { writer in
        writer.map(count: 4)
        for (key, number) in [("version", 2), ("segments", -1), ("compact", -1)] as [(String, Int64)] {
          writer.rawString(key)
          if number < 0 { writer.map(count: 0) } else { writer.int(number) }
        }
        writer.rawString(name)
        value(&writer)
      }
    }
    func isCorrupt(_ fault: HintsFault?) -> Bool { if case .corrupt = fault { true } else { false } }
    #expect(hints("future") { $0.nil() } == nil)
    #expect(isCorrupt(parse { $0.map(count: 0) }))
    #expect(isCorrupt(parse { $0.array(count: 0) }))
    #expect(isCorrupt(parse { _ in }))
    #expect(isCorrupt(hints("storage_quota_use") { $0.nil() }))
    #expect(isCorrupt(hints("version") { $0.rawString("2") }))
    #expect(isCorrupt(hints("version") { $0.raw([0xcf] + [UInt8](repeating: 0xff, count: 8)) }))
    for segment in [-1, 1 << 32] as [Int64] {
      #expect(
        isCorrupt(
          hints("segments") {
            $0.map(count: 1)
            $0.int(segment)
            $0.int(0)
          }))
    }
    for size in [31, 33] {
      #expect(
        isCorrupt(
          hints("shadow_index") {
            $0.map(count: 1)
            $0.rawBytes([UInt8](repeating: 0, count: size), 0..<size)
            $0.array(count: 0)
          }))
    }
    #expect(
      isCorrupt(
        hints("compact") {
          $0.array(count: 1)
          $0.int(1)
        }))
  }
}
