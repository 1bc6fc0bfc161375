/// A request's id: any MessagePack value, echoed in the answer exactly as it came.
public struct MessageID: Hashable, Sendable {
  public let encoded: [UInt8]

  public init(encoded: [UInt8]) { self.encoded = encoded }
}

/// One argument's value, as far as any method looks at it.
public enum RPCValue: Equatable, Sendable {
  case `nil`
  case bool(Bool)
  case int(Int64)
  case float(Double)
  /// Bytes of a string, at these offsets of the request's block.
  case string(Range<Int>)
  /// Bytes of a binary, at these offsets of the request's block.
  case binary(Range<Int>)
  /// A string or binary too large for memory: the payload of the request's `hole`-th hole, from 0.
  case spooled(hole: Int, length: Int, isBinary: Bool)
  /// A container, an extension or an oversized integer, still encoded, at these offsets of the block.
  case encoded(Range<Int>)
}

/// One request of the RPC dialects: the map `{"i": id, "m": method, "a": {name: value}}`.
///
/// `block` is the buffer that the request arrived in; all ranges are offsets in it. Several requests share
/// one block, so that a value goes from the socket's buffer to disk without a copy in between.
public struct RPCRequest: Sendable {
  public let id: MessageID
  public let method: String
  public let arguments: [Argument]
  public let block: [UInt8]
  /// Bytes that the request takes in the block.
  public let size: Int

  public struct Argument: Sendable {
    public let name: Range<Int>
    public let value: RPCValue
  }

  /// The same request in a block of its own, without the bytes before `start` and behind its end.
  ///
  /// For requests whose large value was moved away: each would keep a whole block, mostly of the next one's
  /// value, while it waits to be answered.
  func compacted(from start: Int) -> RPCRequest {
    func moved(_ range: Range<Int>) -> Range<Int> { range.lowerBound - start..<range.upperBound - start }
    let arguments = arguments.map { argument in
      let value: RPCValue =
        switch argument.value {
        case .string(let range): .string(moved(range))
        case .binary(let range): .binary(moved(range))
        case .encoded(let range): .encoded(moved(range))
        case .nil, .bool, .int, .float, .spooled: argument.value
        }
      return Argument(name: moved(argument.name), value: value)
    }
    return RPCRequest(
      id: id, method: method, arguments: arguments, block: Array(block[start..<start + size]), size: size)
  }

  /// The value of the argument `name`; the last one counts where a client repeats it.
  public func value(_ name: StaticString) -> RPCValue? {
    arguments.last { matches($0.name, name) }?.value
  }

  private func matches(_ range: Range<Int>, _ name: StaticString) -> Bool {
    guard range.count == name.utf8CodeUnitCount else { return false }
    let bytes = block.span
    var index = range.lowerBound
    for byte in name.description.utf8 {
      guard bytes[index] == byte else { return false }
      index += 1
    }
    return true
  }
}

/// Why a client's bytes end the connection.
public enum RPCFault: Error, Equatable, Sendable {
  /// A MessagePack value that is no map, such as a shell's greeting. The original exits with 85.
  case notAMap
  /// Not MessagePack, beyond the limits, or a map without `i`, `m` and `a`. The original exits with 2.
  case malformed(String)
}

/// Finds the requests in a stream of bytes.
///
/// A pure function of the bytes at hand. A value larger than `Limits.inlineValue` is not waited for: the
/// caller is told where it begins, moves it elsewhere, and parses again with the `Hole` that it left.
public enum RPCRequestParser {
  /// The place of a large value that was moved out of the block: its payload is missing at `offset`.
  public struct Hole: Equatable, Sendable {
    public let offset: Int
    public let length: Int

    public init(offset: Int, length: Int) {
      self.offset = offset
      self.length = length
    }
  }

  public enum Outcome: Sendable {
    /// A whole request; the next one begins at `end`.
    case request(RPCRequest, end: Int)
    /// Nothing can be said before the block holds `needed` bytes.
    case incomplete(needed: Int)
    /// A large value's payload begins at the hole's offset. `method` is known if it came first.
    case large(Hole, method: String?)
  }

  /// Parses the request that begins at `start` of `block`.
  public static func parse(_ block: [UInt8], from start: Int, holes: [Hole] = [])
    throws(RPCFault) -> Outcome
  {
    do {
      return try parseMap(block, from: start, holes: holes)
    } catch {
      switch error {
      case .fault(let fault): throw fault
      case .large(let hole, let method): return .large(hole, method: method)
      case .format(.truncated(let needed)):
        guard needed - start <= Limits.requestBytes else { throw .malformed("request too large") }
        return .incomplete(needed: needed)
      case .format(.invalidByte): throw .malformed("not MessagePack")
      case .format(.overLimit): throw .malformed("request nested too deeply or of too many elements")
      }
    }
  }

  private enum Stop: Error {
    case fault(RPCFault)
    case format(MessagePackError)
    case large(Hole, String?)
  }

  private static func parseMap(_ block: [UInt8], from start: Int, holes: [Hole]) throws(Stop) -> Outcome {
    let bytes = block.span
    var reader = MessagePackReader(offset: start)
    guard case .map(let count) = try head(&reader, bytes) else { throw .fault(.notAMap) }
    guard count <= reader.elementsLeft else { throw .format(.overLimit) }
    var id: MessageID?
    var method: String?
    var arguments: [RPCRequest.Argument]?
    for _ in 0..<count {
      switch try key(&reader, bytes) {
      case UInt8(ascii: "i"): id = MessageID(encoded: Array(block[try skip(&reader, bytes)]))
      case UInt8(ascii: "m"): method = try text(&reader, block)
      case UInt8(ascii: "a"): arguments = try parseArguments(&reader, block, method, holes)
      default: _ = try skip(&reader, bytes)
      }
    }
    guard let id, let method, let arguments else {
      throw .fault(.malformed("request without id, method or arguments"))
    }
    let size = reader.offset - start
    let request = RPCRequest(id: id, method: method, arguments: arguments, block: block, size: size)
    guard holes.isEmpty else { return .request(request.compacted(from: start), end: reader.offset) }
    return .request(request, end: reader.offset)
  }

  private static func parseArguments(
    _ reader: inout MessagePackReader, _ block: [UInt8], _ method: String?, _ holes: [Hole]
  ) throws(Stop) -> [RPCRequest.Argument] {
    let bytes = block.span
    let start = reader.offset
    guard case .map(let count) = try head(&reader, bytes) else {
      // The original takes an array's elements for names it does not know, and ignores those.
      reader.offset = start
      _ = try skip(&reader, bytes)
      return []
    }
    guard count <= reader.elementsLeft else { throw .format(.overLimit) }
    var arguments: [RPCRequest.Argument] = []
    arguments.reserveCapacity(min(count, 8))
    for _ in 0..<count {
      let nameHead = try head(&reader, bytes)
      guard case .string(let length) = nameHead else {
        try skipBody(&reader, nameHead, bytes)
        _ = try parseValue(&reader, bytes, method, holes)
        continue
      }
      guard length <= Limits.inlineValue else { throw .fault(.malformed("argument name too long")) }
      let name = try payload(&reader, length, bytes)
      arguments.append(.init(name: name, value: try parseValue(&reader, bytes, method, holes)))
    }
    return arguments
  }

  private static func parseValue(
    _ reader: inout MessagePackReader, _ bytes: Span<UInt8>, _ method: String?, _ holes: [Hole]
  ) throws(Stop) -> RPCValue {
    let start = reader.offset
    let head = try head(&reader, bytes)
    switch head {
    case .nil: return .nil
    case .bool(let value): return .bool(value)
    case .int(let value): return .int(value)
    case .float(let value): return .float(value)
    case .string(let length), .binary(let length):
      let isBinary = if case .binary = head { true } else { false }
      guard length <= Limits.inlineValue else {
        let hole = Hole(offset: reader.offset, length: length)
        guard let index = holes.firstIndex(of: hole) else { throw .large(hole, method) }
        return .spooled(hole: index, length: length, isBinary: isBinary)
      }
      let range = try payload(&reader, length, bytes)
      return isBinary ? .binary(range) : .string(range)
    case .uint, .extensionValue, .array, .map:
      try skipBody(&reader, head, bytes)
      return .encoded(start..<reader.offset)
    }
  }

  /// The one letter of a top-level key, or 0 for any other key.
  private static func key(_ reader: inout MessagePackReader, _ bytes: Span<UInt8>) throws(Stop) -> UInt8 {
    let start = reader.offset
    guard case .string(length: 1) = try head(&reader, bytes) else {
      reader.offset = start
      _ = try skip(&reader, bytes)
      return 0
    }
    return bytes[try payload(&reader, 1, bytes).lowerBound]
  }

  private static func text(_ reader: inout MessagePackReader, _ block: [UInt8]) throws(Stop) -> String {
    guard case .string(let length) = try head(&reader, block.span), length <= Limits.path else {
      throw .fault(.malformed("method is not a string"))
    }
    return String(decoding: block[try payload(&reader, length, block.span)], as: UTF8.self)
  }

  // The reader's calls with its error wrapped, since a typed throw converts nothing by itself.

  private static func head(_ reader: inout MessagePackReader, _ bytes: Span<UInt8>)
    throws(Stop) -> MessagePackHead
  {
    do { return try reader.head(in: bytes) } catch { throw .format(error) }
  }

  private static func skip(_ reader: inout MessagePackReader, _ bytes: Span<UInt8>) throws(Stop) -> Range<Int>
  {
    do { return try reader.skip(in: bytes) } catch { throw .format(error) }
  }

  private static func skipBody(
    _ reader: inout MessagePackReader, _ head: MessagePackHead, _ bytes: Span<UInt8>
  ) throws(Stop) {
    do { try reader.skipBody(of: head, in: bytes, depth: Limits.requestDepth) } catch { throw .format(error) }
  }

  private static func payload(_ reader: inout MessagePackReader, _ length: Int, _ bytes: Span<UInt8>)
    throws(Stop) -> Range<Int>
  {
    do { return try reader.payload(length, in: bytes) } catch { throw .format(error) }
  }
}
