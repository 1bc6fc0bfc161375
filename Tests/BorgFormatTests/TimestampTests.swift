import TestKit
import BorgFormat
import Testing

struct TimestampTests {
  @Test func `python finds the same moment in every recorded text`() {
    for row in Recorded.rows(Recorded.moments, columns: 2) {
      #expect(Timestamp(iso8601: row[1])?.milliseconds == Int64(row[0]), "\(row)")
    }
  }

  @Test(arguments: [
    "2026-W47-1", "2026W47", "2026-11-23T01:36:58+01:00:00.5", "2026-11-23é01:36", "2026-11-23T01:36:58 Z",
    "2026-11-23T01:36:58:578", "2026-11-23T01:36:58+00.00", "2026-11-23T01:36:58+00:90",
  ])
  func `forms that python takes and borg never writes are refused`(text: String) {
    #expect(Timestamp(iso8601: text) == nil)
  }

  static let texts: [(Int64, String)] = [
    (1_795_397_818_578, "2026-11-23T01:36:58.578+00:00"), (0, "1970-01-01T00:00:00.000+00:00"),
    (-1, "1969-12-31T23:59:59.999+00:00"), (951_825_600_001, "2000-02-29T12:00:00.001+00:00"),
    (-62_135_596_800_000, "0001-01-01T00:00:00.000+00:00"),
    (253_402_300_799_999, "9999-12-31T23:59:59.999+00:00"),
  ]

  @Test(arguments: texts)
  func `a moment has borg's text and comes back from it`(milliseconds: Int64, text: String) {
    let timestamp = Timestamp(milliseconds: milliseconds)
    #expect(timestamp.iso8601 == text)
    #expect(Timestamp(iso8601: text) == timestamp)
  }

  @Test func `a moment beyond the calendar has the text of its nearest end`() {
    #expect(Timestamp(milliseconds: .min).iso8601 == "0001-01-01T00:00:00.000+00:00")
    #expect(Timestamp(milliseconds: .max).iso8601 == "9999-12-31T23:59:59.999+00:00")
  }

  @Test(arguments: randomSeeds)
  func `random moments come back from their text`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<500 {
      let range: ClosedRange<Int64> = -62_135_596_800_000...253_402_300_799_999
      let timestamp = Timestamp(milliseconds: Int64.random(in: range, using: &random))
      #expect(Timestamp(iso8601: timestamp.iso8601) == timestamp)
    }
  }

  @Test(arguments: randomSeeds)
  func `random bytes are no moment and no crash`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for count in 0..<60 {
      #expect(Timestamp(iso8601: random.bytes(count)) == nil)
      // Digits and marks get further than any bytes.
      let text = (0..<count).map { _ in "0123456789-:T.,+Z".utf8.randomElement(using: &random) ?? 0 }
      _ = Timestamp(iso8601: text)
    }
  }

  static let ages: [(Int64, Int64, Bool)] = [
    (1_800_000, 0, false), (1_800_001, 0, true), (0, 1_800_001, false), (.max, .min, true),
    (.min, .max, false),
    (.max, .max, false), (.max, .max - 1_800_000, false),
  ]

  @Test(arguments: ages)
  func `half an hour later is measured without overflow`(now: Int64, then: Int64, isLater: Bool) {
    let later = Timestamp(milliseconds: now), earlier = Timestamp(milliseconds: then)
    #expect(later.isLater(than: earlier, byMoreThan: 1800) == isLater)
    #expect(!later.isLater(than: earlier, byMoreThan: .max))
  }
}
