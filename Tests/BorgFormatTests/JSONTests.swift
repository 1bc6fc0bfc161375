import TestKit
import BorgFormat
import Testing

struct JSONTests {
  func parse(_ text: String) throws -> JSON { try JSON(parsing: Array(text.utf8).span) }

  static let values: [(String, JSON)] = [
    ("null", .null), (" true\n", .bool(true)), ("\tfalse\r", .bool(false)), ("0", .int(0)), ("-0", .int(0)),
    ("-12", .int(-12)), ("9223372036854775807", .int(.max)), ("-9223372036854775808", .int(.min)),
    ("9223372036854775808", .double(9_223_372_036_854_775_808)), ("1.5", .double(1.5)),
    ("1e3", .double(1000)),
    ("-2.5E-1", .double(-0.25)), ("1e999", .double(.infinity)), ("\"\"", .string("")), ("[]", .array([])),
    ("[ ]", .array([])), ("{ }", .object([])), ("[1 , [ \"a\"]]", .array([.int(1), .array([.string("a")])])),
    (
      #"{"a" : 1,"b":{"c":[]}}"#,
      .object([
        .init(name: "a", value: .int(1)),
        .init(name: "b", value: .object([.init(name: "c", value: .array([]))])),
      ])
    ),
  ]

  @Test(arguments: values)
  func `a value is read`(text: String, value: JSON) throws {
    #expect(try parse(text) == value)
  }

  @Test(arguments: [
    (#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{C}\n\r\t"), (#""\u00e9\u00C9""#, "éÉ"), (#""\ud83d\ude00""#, "😀"),
    (#""é😀""#, "é😀"), (#""\u0000""#, "\0"), (#""\uffff""#, "\u{FFFF}"),
    // Half of a pair, alone, before an escape, before another first half, and in the wrong order.
    (#""\ud83d""#, "\u{FFFD}"), (#""\ud83d\n""#, "\u{FFFD}\n"), (#""\ud83dx""#, "\u{FFFD}x"),
    (#""\ud83d\u0041""#, "\u{FFFD}A"), (#""\ud83d\ud83d\ude00""#, "\u{FFFD}😀"),
    (#""\ude00\ud83d""#, "\u{FFFD}\u{FFFD}"),
    (#""\udcff""#, "\u{FFFD}"),
  ])
  func `a string is read`(text: String, string: String) throws {
    let value = try parse(text)
    guard case .string(let read) = value else {
      Issue.record("\(value)")
      return
    }
    #expect(Array(read.utf8) == Array(string.utf8))
  }

  static let errors: [(String, JSONError)] = [
    ("", .truncated), (" ", .truncated), ("-", .truncated), ("1.", .truncated), ("1e", .truncated),
    ("1e+", .truncated),
    ("[1", .truncated), ("[1,", .truncated), ("{\"a\"", .truncated), ("tru", .truncated),
    (#""\ud8"#, .truncated),
    (#""\ud83d\"#, .truncated), (#""\ud83d\u"#, .truncated),
    ("01", .unexpectedByte(offset: 1)), ("+1", .unexpectedByte(offset: 0)),
    (".5", .unexpectedByte(offset: 0)),
    ("1.e3", .unexpectedByte(offset: 2)), ("1 2", .unexpectedByte(offset: 2)),
    ("NaN", .unexpectedByte(offset: 0)),
    ("-Infinity", .unexpectedByte(offset: 1)), ("nulL", .unexpectedByte(offset: 3)),
    ("[1,]", .unexpectedByte(offset: 3)),
    ("[,1]", .unexpectedByte(offset: 1)), ("[1 2]", .unexpectedByte(offset: 3)),
    ("{1:2}", .unexpectedByte(offset: 1)),
    ("{\"a\" 1}", .unexpectedByte(offset: 5)), ("{\"a\":1,}", .unexpectedByte(offset: 7)),
    ("]", .unexpectedByte(offset: 0)),
    ("[}", .unexpectedByte(offset: 1)), ("\"\n\"", .unexpectedByte(offset: 1)),
    (#""\x""#, .unexpectedByte(offset: 2)),
    (#""\u00g0""#, .unexpectedByte(offset: 5)), ("\u{FEFF}1", .unexpectedByte(offset: 0)),
    ("1\0", .unexpectedByte(offset: 1)),
    ("'a'", .unexpectedByte(offset: 0)),
  ]

  @Test(arguments: errors)
  func `what is no JSON is refused at its first wrong byte`(text: String, error: JSONError) {
    #expect(throws: error) { try parse(text) }
  }

  static let notUTF8: [[UInt8]] = [
    [0x22, 0xFF, 0x22], [0x22, 0xC3, 0x22], [0x22, 0xED, 0xA0, 0x80, 0x22], [0x22, 0xC0, 0x80, 0x22],
  ]

  @Test(arguments: notUTF8)
  func `a string that is not UTF-8 is refused`(bytes: [UInt8]) {
    #expect(throws: JSONError.invalidUTF8(offset: 0)) { try JSON(parsing: bytes) }
  }

  @Test func `nesting ends at the limit, in arrays and objects`() throws {
    let deepest = String(repeating: "[", count: 16) + String(repeating: "]", count: 16)
    #expect(throws: Never.self) { try parse(deepest) }
    #expect(throws: JSONError.tooDeep(limit: 16)) { try parse("[" + deepest + "]") }
    #expect(throws: JSONError.tooDeep(limit: 16)) { try parse(String(repeating: "[", count: 60_000)) }
    #expect(throws: JSONError.tooDeep(limit: 16)) { try parse(String(repeating: #"{"a":"#, count: 10_000)) }
  }

  @Test func `size ends at the limit`() throws {
    let text = Array("[1]".utf8)
    #expect(throws: Never.self) { try JSON(parsing: text, maximumSize: 3) }
    #expect(throws: JSONError.tooLarge(limit: 2)) { try JSON(parsing: text, maximumSize: 2) }
  }

  @Test func `numbers of any length are read`() throws {
    #expect(try parse(String(repeating: "9", count: 65_000)) == .double(.infinity))
    #expect(try parse("0." + String(repeating: "0", count: 65_000)) == .double(0))
  }

  @Test func `the last of several members with a name counts`() throws {
    let object = try parse(#"{"a": 1, "b": 2, "a": 3}"#)
    #expect(object["a"] == .int(3))
    #expect(object["c"] == nil)
    #expect(JSON.array([])["a"] == nil)
  }

  @Test(arguments: Recorded.rows(Recorded.quoted, columns: 2))
  func `a string is quoted as python does, and comes back`(row: [String]) throws {
    let string = String(decoding: try [UInt8](recorded: row[0]), as: UTF8.self)
    var quoted: [UInt8] = []
    JSON.append(quoted: string, to: &quoted)
    #expect(String(decoding: quoted, as: UTF8.self) == row[1])
    #expect(try JSON(parsing: quoted) == .string(string))
  }

  @Test(arguments: randomSeeds)
  func `random strings come back from their quotes`(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    for count in 0..<60 {
      let string = String(decoding: random.bytes(count), as: UTF8.self)
      var quoted: [UInt8] = []
      JSON.append(quoted: string, to: &quoted)
      #expect(quoted.allSatisfy { (0x20...0x7E).contains($0) })
      #expect(try JSON(parsing: quoted) == .string(string))
    }
  }

  @Test(arguments: randomSeeds)
  func `random bytes and random marks never trap`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for count in 0..<200 {
      _ = try? JSON(parsing: random.bytes(count))
      let text = (0..<count).map { _ in #"[]{},:"\ud8c01.eE-+ tfn"#.utf8.randomElement(using: &random) ?? 0 }
      _ = try? JSON(parsing: text)
    }
  }
}
