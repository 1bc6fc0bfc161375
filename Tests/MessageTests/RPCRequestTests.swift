import TestKit
import BorgFormat
import Testing

/// A request with its arguments' values as bytes, whichever way they came.
private struct Played: Equatable {
  var id: [UInt8]
  var method: String
  var arguments: [Argument]

  struct Argument: Equatable {
    var name: String
    var value: Value
  }

  enum Value: Equatable {
    case scalar(RPCValue)
    case string([UInt8])
    case binary([UInt8])
    case spooled([UInt8], isBinary: Bool)
    case encoded([UInt8])
  }
}

/// Does what a connection does: gives the parser a stream in pieces, and takes large values out of it.
private struct Stream {
  private var block: [UInt8] = []
  private var start = 0
  private var holes: [RPCRequestParser.Hole] = []
  private var spooled: [[UInt8]] = []
  /// Bytes of a large value that are still to come.
  private var missing = 0
  /// What `large` said of the method.
  private(set) var methods: [String?] = []
  private(set) var played: [Played] = []

  /// Plays `bytes` in pieces of at most `size`.
  static func play(_ bytes: [UInt8], piece size: Int = .max) throws -> Stream {
    var stream = Stream()
    var offset = 0
    while offset < bytes.count {
      let end = min(bytes.count - offset, size) + offset
      try stream.take(bytes[offset..<end])
      offset = end
    }
    return stream
  }

  private mutating func take(_ bytes: ArraySlice<UInt8>) throws {
    let value = bytes.prefix(missing)
    missing -= value.count
    if !value.isEmpty { spooled[spooled.count - 1] += value }
    block += bytes.dropFirst(value.count)
    while missing == 0 {
      switch try RPCRequestParser.parse(block, from: start, holes: holes) {
      case .incomplete(let needed):
        try #require(needed > block.count)
        return
      case .large(let hole, let method):
        methods.append(method)
        let here = block[hole.offset...].prefix(hole.length)
        spooled.append(Array(here))
        missing = hole.length - here.count
        block.removeSubrange(here.indices)
        holes.append(hole)
      case .request(let request, let end):
        played.append(resolved(request))
        (start, holes, spooled) = (end, [], [])
      }
    }
  }

  private func resolved(_ request: RPCRequest) -> Played {
    let arguments = request.arguments.map { argument in
      let value: Played.Value =
        switch argument.value {
        case .string(let range): .string(Array(request.block[range]))
        case .binary(let range): .binary(Array(request.block[range]))
        case .encoded(let range): .encoded(Array(request.block[range]))
        case .spooled(let hole, let length, let isBinary):
          .spooled(spooled[hole].count == length ? spooled[hole] : [], isBinary: isBinary)
        case let scalar: .scalar(scalar)
        }
      return Played.Argument(
        name: String(decoding: request.block[argument.name], as: UTF8.self), value: value)
    }
    return Played(id: request.id.encoded, method: request.method, arguments: arguments)
  }
}

/// The bytes of the request `{"i": id, "m": method, "a": {…}}`, the arguments already encoded.
private func request(id: Int64 = 1, _ method: String, _ arguments: [(name: String, value: [UInt8])] = [])
  -> [UInt8]
{
  written { writer in
    writer.map(count: 3)
    writer.string("i")
    writer.int(id)
    writer.string("m")
    writer.string(method)
    writer.string("a")
    writer.map(count: arguments.count)
    for (name, value) in arguments {
      writer.string(name)
      writer.raw(value)
    }
  }
}

private func binary(_ value: [UInt8]) -> [UInt8] { written { $0.binary(value) } }
private func text(_ value: String) -> [UInt8] { written { $0.string(value) } }

private func parse(_ bytes: [UInt8]) throws -> RPCRequestParser.Outcome {
  try RPCRequestParser.parse(bytes, from: 0)
}

/// The large value that comes next in the bytes, if one does.
private func largeValue(_ bytes: [UInt8]) throws -> RPCRequestParser.Hole? {
  guard case .large(let hole, _) = try parse(bytes) else { return nil }
  return hole
}

/// The fault that the bytes are, if they are one.
private func fault(_ bytes: [UInt8]) -> RPCFault? {
  do {
    _ = try RPCRequestParser.parse(bytes, from: 0)
    return nil
  } catch {
    return error
  }
}

private func isMalformed(_ fault: RPCFault?) -> Bool {
  if case .malformed? = fault { true } else { false }
}

/// A value that is too large for memory, each one different.
private func large(_ seed: UInt8, count: Int = Limits.inlineValue + 1) -> [UInt8] {
  var bytes = [UInt8](repeating: seed, count: count)
  bytes[0] = 0xc1
  bytes[count - 1] = 0x83
  return bytes
}

struct RPCRequestTests {
  private static let negotiate =
    "83a16901a16da96e65676f7469617465a16181ab636c69656e745f6461746181ae636c69656e745f76657273696f6e95020000fd12"

  // MARK: What stock clients send

  @Test func `the first request of a stock client is understood`() throws {
    let bytes = try [UInt8](Self.negotiate)
    let stream = try Stream.play(bytes)
    let data = try [UInt8]("81ae636c69656e745f76657273696f6e95020000fd12")
    #expect(
      stream.played == [
        Played(id: [1], method: "negotiate", arguments: [.init(name: "client_data", value: .encoded(data))])
      ])
  }

  @Test func `every prefix of a request is incomplete, and says what it lacks`() throws {
    let bytes = try [UInt8](Self.negotiate)
    for prefix in bytes.prefixes {
      guard case .incomplete(let needed) = try parse(prefix) else {
        Issue.record("\(prefix.count) bytes are enough")
        return
      }
      #expect(needed > prefix.count && needed <= bytes.count)
    }
  }

  @Test func `a flipped bit gives another outcome or a fault, never a crash`() throws {
    let bytes =
      try [UInt8](Self.negotiate) + request("put", [("id", binary([1, 2])), ("data", binary([3]))])
    for flipped in bytes.withEachBitFlipped {
      var start = 0
      while let outcome = try? RPCRequestParser.parse(flipped, from: start),
        case .request(let request, let end) = outcome
      {
        #expect(end > start && end <= flipped.count)
        for argument in request.arguments { #expect(argument.name.upperBound <= end) }
        start = end
      }
    }
  }

  @Test(arguments: UInt64(0)..<200)
  func `random bytes in a map of three never crash the parser`(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    let tail = random.bytes(Int.random(in: 0...120, using: &random))
    _ = fault(request("put").dropLast() + tail)
    _ = fault([0x83, 0xa1] + tail)
  }

  @Test(arguments: [1, 2, 3, 7, 64])
  func `requests may arrive in pieces of any size`(piece: Int) throws {
    let bytes =
      try [UInt8](Self.negotiate) + request(id: 2, "get", [("id", binary([9, 9]))])
      + request(id: 300, "close")
    #expect(try Stream.play(bytes, piece: piece).played == Stream.play(bytes).played)
    #expect(try Stream.play(bytes).played.map(\.method) == ["negotiate", "get", "close"])
  }

  @Test func `pipelined requests share the block that they came in`() throws {
    let bytes = request(id: 1, "get", [("id", binary([1]))]) + request(id: 2, "get", [("id", binary([2]))])
    guard case .request(let first, let end) = try parse(bytes),
      case .request(let second, let last) = try RPCRequestParser.parse(bytes, from: end)
    else {
      Issue.record("not two requests")
      return
    }
    #expect(last == bytes.count)
    for (request, value) in [(first, UInt8(1)), (second, 2)] {
      #expect(request.block == bytes)
      guard case .binary(let range) = request.value("id") else {
        Issue.record("no id")
        return
      }
      #expect(Array(request.block[range]) == [value])
    }
    guard case .incomplete(let needed) = try RPCRequestParser.parse(bytes, from: last) else {
      Issue.record("a third request")
      return
    }
    #expect(needed == last + 1)
  }

  // MARK: The envelope

  @Test(arguments: [
    "i m a", "i a m", "m i a", "m a i", "a i m", "a m i",
  ])
  func `keys may stand in any order`(order: String) throws {
    let values = ["i": [UInt8(7)], "m": text("put"), "a": written { $0.map(count: 1) } + text("x") + [0xc3]]
    var bytes: [UInt8] = [0x83]
    for key in order.split(separator: " ").map(String.init) {
      bytes += text(key)
      bytes += try #require(values[key])
    }
    #expect(
      try Stream.play(bytes).played == [
        Played(id: [7], method: "put", arguments: [.init(name: "x", value: .scalar(.bool(true)))])
      ])
  }

  @Test func `keys that nobody knows are ignored, whatever they are`() throws {
    var bytes: [UInt8] = [0x88] + text("more") + [0x92, 0xc0, 0x81, 0x01, 0xc0]
    bytes += text("i") + [5] + [0xc0] + text("x") + binary([1]) + [3] + text("m") + text("info")
    bytes += [0x91, 0x90] + [0xca, 0, 0, 0, 0] + text("a") + [0x80] + text("") + [0xd4, 1, 2]
    #expect(try Stream.play(bytes).played == [Played(id: [5], method: "info", arguments: [])])
  }

  @Test func `a repeated key or argument counts as it came last`() throws {
    let arguments = [0x82] + text("x") + [1] + text("x") + [2]
    let bytes = [0x85] + text("i") + [1] + text("i") + [2] + text("m") + text("a") + text("m") + text("b")
    guard case .request(let request, _) = try parse(bytes + text("a") + arguments) else {
      Issue.record("no request")
      return
    }
    #expect(request.id.encoded == [2])
    #expect(request.method == "b")
    #expect(request.value("x") == .int(2))
    #expect(request.value("y") == nil)
    #expect(request.value("") == nil)
  }

  @Test(arguments: [
    "c0", "c3", "00", "ff", "cd0001", "d30000000000000001", "cfffffffffffffffff", "cb3ff8000000000000", "a0",
    "a161",
    "c40161", "90", "9201a162", "80", "8101c0", "d40501", "d6ff00000001", "d90161",
  ])
  func `an id of any type is kept as it came`(hex: String) throws {
    let id = try [UInt8](hex)
    let bytes = [0x83] + text("i") + id + text("m") + text("info") + text("a") + [0x80]
    #expect(try Stream.play(bytes, piece: 1).played.map(\.id) == [id])
  }

  @Test(arguments: ["90", "9201a178", "c0", "05", "a3616263", "c0", "c403010203", "d40501"])
  func `arguments that are no map are none`(hex: String) throws {
    let bytes = [0x83] + text("i") + [1] + text("m") + text("info") + text("a") + (try [UInt8](hex))
    #expect(try Stream.play(bytes).played == [Played(id: [1], method: "info", arguments: [])])
  }

  @Test func `arguments whose names are no strings are left out`() throws {
    let names: [[UInt8]] = [
      [1], [0xc0], binary(Array("id".utf8)), [0x91, 0x01], [0xcb] + [UInt8](repeating: 0, count: 8),
    ]
    let map = names.reduce(written { $0.map(count: names.count + 1) }) { $0 + $1 + [1] } + text("id") + [2]
    let bytes = [0x83] + text("i") + [1] + text("m") + text("get") + text("a") + map
    #expect(
      try Stream.play(bytes).played == [
        Played(id: [1], method: "get", arguments: [.init(name: "id", value: .scalar(.int(2)))])
      ])
  }

  @Test func `values of all types are told apart`() throws {
    let bytes = request(
      "put",
      [
        ("nil", [0xc0]), ("bool", [0xc2]), ("int", [0xd1, 0xff, 0x00]),
        ("uint", [0xcf] + [UInt8](repeating: 0xff, count: 8)),
        ("single", [0xca, 0x3f, 0x80, 0, 0]), ("float", [0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
        ("string", [0xa1, 0xff]),
        ("binary", [0xc4, 0]), ("array", [0x92, 1, 0x91, 2]), ("map", [0x81, 1, 2]),
        ("extension", [0xd5, 1, 2, 3]),
      ])
    #expect(
      try Stream.play(bytes, piece: 1).played.first?.arguments == [
        .init(name: "nil", value: .scalar(.nil)), .init(name: "bool", value: .scalar(.bool(false))),
        .init(name: "int", value: .scalar(.int(-256))),
        .init(name: "uint", value: .encoded([0xcf] + [UInt8](repeating: 0xff, count: 8))),
        .init(name: "single", value: .scalar(.float(1))), .init(name: "float", value: .scalar(.float(1.5))),
        .init(name: "string", value: .string([0xff])), .init(name: "binary", value: .binary([])),
        .init(name: "array", value: .encoded([0x92, 1, 0x91, 2])),
        .init(name: "map", value: .encoded([0x81, 1, 2])),
        .init(name: "extension", value: .encoded([0xd5, 1, 2, 3])),
      ])
  }

  // MARK: Faults

  @Test(arguments: [
    "00", "ff", "c0", "c3", "90", "93010203", "a0", "a3616263", "c400", "ca00000000", "d40501", "57", "5c",
  ])
  func `a value that is no map is told from what is no MessagePack`(hex: String) throws {
    #expect(fault(try [UInt8](hex)) == .notAMap)
  }

  @Test func `a shell's greeting is no map`() {
    #expect(fault(Array("Welcome to Debian\n".utf8)) == .notAMap)
  }

  @Test(arguments: ["i", "m", "a"])
  func `a map without id, method or arguments is malformed`(missing: String) {
    var bytes: [UInt8] = [0x82]
    if missing != "i" { bytes += text("i") + [1] }
    if missing != "m" { bytes += text("m") + text("info") }
    if missing != "a" { bytes += text("a") + [0x80] }
    #expect(isMalformed(fault(bytes)))
    #expect(isMalformed(fault([0x80])))
  }

  @Test func `keys that are binary are not the keys`() {
    let bytes = [0x83] + binary([0x69]) + [1] + binary([0x6d]) + text("info") + binary([0x61]) + [0x80]
    #expect(isMalformed(fault(bytes)))
  }

  @Test(arguments: ["01", "c0", "c40161", "9161", "80"])
  func `a method that is no string is malformed`(hex: String) throws {
    let bytes = [0x83] + text("i") + [1] + text("m") + (try [UInt8](hex)) + text("a") + [0x80]
    #expect(isMalformed(fault(bytes)))
  }

  @Test(arguments: ["c1", "83a169c1", "83a16901a16dc1", "83a16901a16da0a161c1"])
  func `the byte that is never used is malformed at once`(hex: String) throws {
    #expect(isMalformed(fault(try [UInt8](hex))))
  }

  @Test(arguments: [
    // 1100 nested arrays, and containers that announce what never comes, in each place of a request.
    "83a169" + String(repeating: "91", count: 1100), "dfffffffff", "df7fffffff", "de1001", "83a169dd7fffffff",
    "83a16901a16da0a161dd7fffffff", "83a16901a16da0a161dfffffffff", "83a16901a16da0a16181a178dd7fffffff",
    "83a178dbffffffff", "83a169c6ffffffff", "83a178dfffffffff", "83dbffffffff", "83a16ddbffffffff",
    "83a16dda1001",
    "83a16901a16da0a161dbffffffff", "83a16901a16da0a16181dbffffffff", "83a16901a16da0a16181a178c9ffffffff",
  ])
  func `a bomb is malformed before it has gone off`(hex: String) throws {
    #expect(isMalformed(fault(try [UInt8](hex))))
  }

  @Test func `a bare header of an array is no map, however many elements it announces`() throws {
    #expect(fault(try [UInt8]("dd7fffffff")) == .notAMap)
  }

  @Test func `a request may not be larger than the limit, wherever it begins`() throws {
    let bytes = [0x83] + text("x") + [0xc6, 0, 0x0f, 0xff, 0xf0]
    guard case .incomplete(let needed) = try parse(bytes) else {
      Issue.record("not incomplete")
      return
    }
    #expect(needed <= Limits.requestBytes)
    let tooMany = [0x83] + text("x") + [0xc6, 0, 0x10, 0, 0]
    #expect(isMalformed(fault(tooMany)))
    let shifted = [UInt8](repeating: 0, count: 5_000_000) + bytes
    #expect(throws: Never.self) { try RPCRequestParser.parse(shifted, from: 5_000_000) }
  }

  // MARK: Large values

  @Test func `a value of the largest inline size is not taken out, one more byte is`() throws {
    let inline = large(1, count: Limits.inlineValue)
    let bytes = request("put", [("data", binary(inline))])
    #expect(try Stream.play(bytes).played.first?.arguments == [.init(name: "data", value: .binary(inline))])
    let spooled = large(1)
    let stream = try Stream.play(request("put", [("data", binary(spooled))]))
    #expect(
      stream.played.first?.arguments == [.init(name: "data", value: .spooled(spooled, isBinary: true))])
    #expect(stream.methods == ["put"])
  }

  @Test func `a large value is found as soon as its head is there`() throws {
    let bytes = request("put", [("id", binary([1])), ("data", binary(large(1)))])
    let head = bytes.count - Limits.inlineValue - 1
    guard case .incomplete(let needed) = try parse(Array(bytes.prefix(head - 1))) else {
      Issue.record("not incomplete")
      return
    }
    #expect(needed == head)
    let hole = RPCRequestParser.Hole(offset: head, length: Limits.inlineValue + 1)
    #expect(try largeValue(Array(bytes.prefix(head))) == hole)
  }

  @Test(arguments: [1000, 4096, 65536, 131_075, 300_000, Int.max])
  func `large values may stand anywhere among the arguments and arrive in any pieces`(piece: Int) throws {
    let (data, name) = (large(2, count: 200_000), text("archives/x"))
    let (before, after) = (request(id: 1, "info"), request(id: 3, "close"))
    let orders: [[(String, [UInt8])]] = [
      [("value", binary(data)), ("name", name)], [("name", name), ("value", binary(data))],
      [("a", [0xc0]), ("value", binary(data)), ("name", name), ("z", [0x91, 0xc0])],
    ]
    for order in orders {
      let bytes = before + request(id: 2, "store_store", order) + after
      let played = try Stream.play(bytes, piece: piece).played
      #expect(played.map(\.method) == ["info", "store_store", "close"])
      let arguments = try #require(played.dropFirst().first).arguments
      #expect(arguments.map(\.name) == order.map(\.0))
      #expect(arguments.contains(.init(name: "value", value: .spooled(data, isBinary: true))))
      #expect(arguments.contains(.init(name: "name", value: .string(Array("archives/x".utf8)))))
    }
  }

  @Test(arguments: [50_000, Int.max])
  func `two large values have a hole each`(piece: Int) throws {
    let (first, second) = (large(3), large(4, count: Limits.inlineValue + 77))
    let bytes = request(
      "put", [("x", binary(first)), ("id", binary([1])), ("data", written { $0.string(bytes: second) })])
    let stream = try Stream.play(bytes + request(id: 2, "close"), piece: piece)
    #expect(
      stream.played.first?.arguments == [
        .init(name: "x", value: .spooled(first, isBinary: true)), .init(name: "id", value: .binary([1])),
        .init(name: "data", value: .spooled(second, isBinary: false)),
      ])
    #expect(stream.played.last?.method == "close")
  }

  @Test func `two large values of one length, next to each other, are not confused`() throws {
    let (first, second) = (large(5), large(6))
    let stream = try Stream.play(request("put", [("", binary(first)), ("", binary(second)), ("x", [0xc0])]))
    #expect(
      stream.played.first?.arguments.map(\.value) == [
        .spooled(first, isBinary: true), .spooled(second, isBinary: true), .scalar(.nil),
      ])
  }

  @Test func `a large value before the method comes without its name`() throws {
    let data = large(7)
    let bytes =
      [0x83] + text("a") + [0x81] + text("data") + binary(data) + text("i") + [1] + text("m") + text("put")
    let stream = try Stream.play(bytes, piece: 70_000)
    #expect(stream.methods == [nil])
    #expect(stream.played.first?.arguments == [.init(name: "data", value: .spooled(data, isBinary: true))])
  }

  @Test func `a large value of an argument without a name is taken out all the same`() throws {
    let bytes =
      [0x83] + text("i") + [1] + text("m") + text("put") + text("a") + [0x82, 0x05] + binary(large(8))
    let played = try Stream.play(bytes + text("x") + [0xc3]).played
    #expect(played.first?.arguments == [.init(name: "x", value: .scalar(.bool(true)))])
  }

  @Test func `a value of four gibibytes is a hole like any other`() throws {
    let bytes = request("store_store", [("value", [])]) + [0xc6, 0xff, 0xff, 0xff, 0xff]
    let hole = RPCRequestParser.Hole(offset: bytes.count, length: 4_294_967_295)
    #expect(try largeValue(bytes) == hole)
  }
}
