import TestKit
import BorgFormat
import Testing

struct MessagePackTests {
  // MARK: Against Python's msgpack

  @Test(arguments: Recorded.rows(Recorded.scalars))
  func `scalars are read and written as Python's msgpack does`(row: [String]) throws {
    let (kind, text, bytes) = (row[0], row[1], try [UInt8](row[2]))
    let (head, end) = try head(of: bytes)
    #expect(end == bytes.count)
    switch kind {
    case "int":
      let value = try #require(Int64(text))
      #expect(head == .int(value))
      #expect(written { $0.int(value) } == bytes)
    case "uint": #expect(try head == .uint(#require(UInt64(text))))
    case "float", "single":
      let bits = try #require(UInt64(text, radix: 16))
      guard case .float(let value) = head else {
        Issue.record("\(head) is no float")
        return
      }
      #expect(value.bitPattern == bits)
    case "bool":
      #expect(head == .bool(text == "true"))
      #expect(written { $0.bool(text == "true") } == bytes)
    default:
      #expect(kind == "nil" && head == .nil)
      #expect(written { $0.nil() } == bytes)
    }
  }

  @Test(arguments: Recorded.rows(Recorded.heads))
  func `heads of strings and containers are read and written as Python's msgpack does`(row: [String]) throws {
    let (kind, length, bytes) = (row[0], try #require(Int(row[1])), try [UInt8](row[2]))
    let (head, end) = try head(of: bytes)
    #expect(end == bytes.count)
    let text = [UInt8](repeating: 0x61, count: length)
    switch kind {
    case "string":
      #expect(head == .string(length: length))
      #expect(written { $0.string(bytes: text) } == bytes + text)
    case "binary":
      #expect(head == .binary(length: length))
      #expect(written { $0.binary(text) } == bytes + text)
    case "array":
      #expect(head == .array(count: length))
      #expect(written { $0.array(count: length) } == bytes)
    case "map":
      #expect(head == .map(count: length))
      #expect(written { $0.map(count: length) } == bytes)
    default: #expect(kind == "extension" && head == .extensionValue(length: length))
    }
  }

  @Test(arguments: Recorded.rows(Recorded.values))
  func `whole values are skipped to their end, and no prefix of one is whole`(row: [String]) throws {
    let bytes = try [UInt8](row[0])
    #expect(try end(of: bytes + [0xc1]) == bytes.count)
    for prefix in bytes.prefixes {
      do {
        let end = try end(of: prefix)
        Issue.record("a value of \(end) bytes in a prefix of \(prefix.count)")
      } catch {
        guard case .truncated(let needed) = error else {
          Issue.record("\(error) after \(prefix.count) bytes")
          return
        }
        #expect(needed > prefix.count && needed <= bytes.count)
      }
    }
  }

  @Test(arguments: Recorded.rows(Recorded.values))
  func `reading as many bytes as are needed, again and again, gets to the end`(row: [String]) throws {
    let bytes = try [UInt8](row[0])
    var count = 0
    while count < bytes.count {
      do {
        #expect(try end(of: Array(bytes.prefix(count))) == bytes.count)
      } catch MessagePackError.truncated(let needed) {
        try #require(needed > count && needed <= bytes.count)
        count = needed
      }
    }
    #expect(try end(of: bytes) == bytes.count)
  }

  @Test(arguments: Recorded.rows(Recorded.values))
  func `a flipped bit gives another value or an error, never a crash or an end outside`(row: [String]) throws
  {
    for bytes in try [UInt8](row[0]).withEachBitFlipped {
      if let end = try? end(of: bytes) { #expect((1...bytes.count).contains(end)) }
    }
  }

  @Test(arguments: UInt64(0)..<200)
  func `random bytes never crash the reader`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let bytes = random.bytes(Int.random(in: 0...300, using: &random))
    if let end = try? end(of: bytes) { #expect((1...bytes.count).contains(end)) }
  }

  // MARK: Every width

  @Test(arguments: [
    (5, "05 cc05 cd0005 ce00000005 cf0000000000000005 d005 d10005 d200000005 d30000000000000005"),
    (200, "ccc8 cd00c8 ce000000c8 cf00000000000000c8 d100c8 d2000000c8 d300000000000000c8"),
    (-3, "fd d0fd d1fffd d2fffffffd d3fffffffffffffffd"),
    (Int64.max, "cf7fffffffffffffff d37fffffffffffffff"),
    (Int64.min, "d38000000000000000"),
  ])
  func `an integer may have any width`(value: Int64, forms: String) throws {
    for form in forms.split(separator: " ") {
      #expect(try head(of: [UInt8](String(form))).head == .int(value))
    }
  }

  @Test(arguments: [
    ("a3", 3), ("d903", 3), ("da0003", 3), ("db00000003", 3), ("dbffffffff", 4_294_967_295),
  ])
  func `a string's length may have any width`(form: String, length: Int) throws {
    #expect(try head(of: [UInt8](form)).head == .string(length: length))
  }

  @Test(arguments: [
    ("c403", 3), ("c50003", 3), ("c600000003", 3), ("c6ffffffff", 4_294_967_295),
  ])
  func `a binary's length may have any width`(form: String, length: Int) throws {
    #expect(try head(of: [UInt8](form)).head == .binary(length: length))
  }

  @Test(arguments: [
    ("d4", 2), ("d5", 3), ("d6", 5), ("d7", 9), ("d8", 17), ("c703", 4), ("c80003", 4), ("c900000003", 4),
    ("c9ffffffff", 4_294_967_296),
  ])
  func `an extension's type counts as content`(form: String, length: Int) throws {
    #expect(try head(of: [UInt8](form)).head == .extensionValue(length: length))
  }

  @Test func `integers of every size survive a round trip`() throws {
    var random = SeededGenerator(seed: 1)
    for _ in 0..<2000 {
      let value = Int64(bitPattern: random.next()) >> Int64.random(in: 0..<64, using: &random)
      let bytes = written { $0.int(value) }
      let (head, end) = try head(of: bytes)
      #expect(head == .int(value) && end == bytes.count)
    }
  }

  @Test func `a string is written with its bytes, UTF-8 or not`() {
    #expect(written { $0.string("ü") } == [0xa2, 0xc3, 0xbc])
    #expect(written { $0.string(bytes: [0xff, 0x00]) } == [0xa2, 0xff, 0x00])
    #expect(written { $0.raw([0xc1, 0xd3]) } == [0xc1, 0xd3])
  }

  // MARK: The cursor

  @Test func `the cursor stays where it is when a head or a payload is not whole`() throws {
    var reader = MessagePackReader(offset: 1)
    let bytes: [UInt8] = [0xc0, 0xcd, 0x01]
    let needed = needed { () throws(MessagePackError) in _ = try reader.head(in: bytes.span) }
    #expect(needed == 4)
    #expect(reader.offset == 1)
    let elements = reader.elementsLeft
    #expect(elements == Limits.requestElements)
    let more = self.needed { () throws(MessagePackError) in _ = try reader.payload(5, in: bytes.span) }
    #expect(more == 6)
    #expect(reader.offset == 1)
  }

  @Test func `the cursor stays where it is when a value to be skipped is not whole`() throws {
    var reader = MessagePackReader(offset: 1)
    let bytes: [UInt8] = [0xc0, 0x92, 0x01]
    let needed = needed { () throws(MessagePackError) in _ = try reader.skip(in: bytes.span) }
    #expect(needed == 4)
    #expect(reader.offset == 1)
  }

  private func needed(_ body: () throws(MessagePackError) -> Void) -> Int? {
    do {
      try body()
      return nil
    } catch {
      if case .truncated(let needed) = error { return needed }
      return nil
    }
  }

  @Test func `an empty input lacks one byte`() {
    #expect(throws: MessagePackError.truncated(needed: 1)) { try end(of: []) }
  }

  @Test func `the byte that is never used is refused`() {
    #expect(throws: MessagePackError.invalidByte) { try end(of: [0xc1]) }
    #expect(throws: MessagePackError.invalidByte) { try end(of: [0x91, 0xc1]) }
  }

  // MARK: Bombs

  @Test func `1100 nested arrays are refused`() {
    let bytes = [UInt8](repeating: 0x91, count: 1100) + [0xc0]
    #expect(throws: MessagePackError.overLimit) { try end(of: bytes) }
    #expect(throws: MessagePackError.overLimit) { try end(of: Array(bytes.prefix(100))) }
  }

  @Test func `nesting is allowed to the limit exactly`() throws {
    let deepest = [UInt8](repeating: 0x91, count: Limits.requestDepth)
    #expect(try end(of: deepest + [0xc0]) == Limits.requestDepth + 1)
    #expect(throws: MessagePackError.overLimit) { try end(of: deepest + [0x91, 0xc0]) }
    #expect(throws: MessagePackError.overLimit) { try end(of: [0x90], depth: 0) }
  }

  @Test(arguments: ["dd7fffffff", "ddffffffff", "dfffffffff", "df7fffffff", "dc1001", "de0801"])
  func `a container that announces too many elements is refused before they come`(bomb: String) {
    #expect(throws: MessagePackError.overLimit) { try end(of: [UInt8](bomb)) }
  }

  @Test func `elements are allowed to the limit exactly`() throws {
    let array = written { $0.array(count: 9) } + [UInt8](repeating: 0xc0, count: 9)
    #expect(try end(of: array, elements: 10) == 10)
    #expect(throws: MessagePackError.overLimit) { try end(of: array, elements: 9) }
    let nested = written { $0.array(count: 3) } + [0x92, 0xc0, 0xc0, 0xc0, 0xc0]
    #expect(try end(of: nested, elements: 6) == 6)
    #expect(throws: MessagePackError.overLimit) { try end(of: nested, elements: 5) }
  }

  @Test(arguments: ["dbffffffff", "c6ffffffff", "c9ffffffff"])
  func `a huge string needs its bytes and takes none`(bomb: String) throws {
    let bytes = try [UInt8](bomb)
    let type = bomb.hasPrefix("c9") ? 1 : 0
    #expect(throws: MessagePackError.truncated(needed: 5 + type + 4_294_967_295)) { try end(of: bytes) }
  }
}
