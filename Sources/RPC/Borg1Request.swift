import BorgFormat

/// One request of Borg 1.x, as ranges of the block that it arrived in: nothing is copied out of it.
///
/// `{"i": id, "m": method, "a": {name: value}}`, or `[1, id, method, [value, …]]` from clients before 1.1 and in every
/// client's first message. Parsed again and again into the same value, which keeps its memory.
struct Borg1Request {
  /// How a request was written; its answer is written the same way.
  enum Form: Sendable {
    case map, tuple
  }

  /// The place of a value that is too large to be kept: its payload is missing at `offset`.
  struct Hole: Equatable, Sendable {
    var offset: Int
    var length: Int
  }

  enum Outcome {
    /// A whole request; the next one begins at `end`.
    case request(end: Int)
    /// Nothing can be said before the block holds `needed` bytes.
    case incomplete(needed: Int)
    /// The payload that begins at the hole's offset is larger than any that could be stored.
    case large(Hole)
  }

  private(set) var form = Form.map
  /// Any MessagePack value, encoded.
  private(set) var id = 0..<0
  /// Nil for a name that no method has.
  private(set) var method: Borg1Method?
  private(set) var methodName = 0..<0
  /// What is wrong with a request that can be answered all the same.
  private(set) var problem: StaticString?
  private var arguments: [(Borg1Parameter, RPCValue)] = []

  init() { arguments.reserveCapacity(16) }

  /// The value of an argument; the last one counts where a client repeats it.
  func value(_ parameter: Borg1Parameter) -> RPCValue? {
    for index in arguments.indices.reversed() where arguments[index].0 == parameter {
      return arguments[index].1
    }
    return nil
  }

  /// Parses the message that begins at `start`. Throws where nothing can be answered, neither to this message nor to
  /// what follows it.
  mutating func parse(_ block: [UInt8], from start: Int, hole: Hole?) throws(RPCFault) -> Outcome {
    do {
      return .request(end: try parseMessage(block, from: start, hole))
    } catch {
      switch error {
      case .fault(let fault): throw fault
      case .large(let hole): return .large(hole)
      case .format(.truncated(let needed)):
        guard needed - start <= Limits.borg1Request else { throw .malformed("request too large") }
        return .incomplete(needed: needed)
      case .format(.invalidByte): throw .malformed("not MessagePack")
      case .format(.overLimit): throw .malformed("request nested too deeply or of too many elements")
      }
    }
  }

  private enum Stop: Error {
    case fault(RPCFault)
    case format(MessagePackError)
    case large(Hole)
  }

  private mutating func parseMessage(_ block: [UInt8], from start: Int, _ hole: Hole?) throws(Stop) -> Int {
    arguments.removeAll(keepingCapacity: true)
    (id, method, methodName, problem) = (0..<0, nil, 0..<0, nil)
    let bytes = block.span
    var reader = MessagePackReader(offset: start)
    switch try Self.head(&reader, bytes) {
    case .map(let count): try parseMap(count, &reader, block, hole)
    case .array(count: 4): try parseTuple(&reader, block, hole)
    default: throw .fault(.notAMap)
    }
    return reader.offset
  }

  // MARK: The map form

  private mutating func parseMap(
    _ count: Int, _ reader: inout MessagePackReader, _ block: [UInt8], _ hole: Hole?
  )
    throws(Stop)
  {
    form = .map
    let bytes = block.span
    guard count <= reader.elementsLeft else { throw .format(.overLimit) }
    var (hasID, hasMethod, hasArguments) = (false, false, false)
    for _ in 0..<count {
      switch try Self.key(&reader, bytes) {
      case UInt8(ascii: "i"):
        id = try Self.skip(&reader, bytes)
        hasID = true
      case UInt8(ascii: "m"):
        try parseMethod(&reader, block)
        hasMethod = true
      case UInt8(ascii: "a"):
        try parseNamed(&reader, block, hole)
        hasArguments = true
      default: _ = try Self.skip(&reader, bytes)
      }
    }
    guard hasID else { throw .fault(.malformed("request without id")) }
    if !hasMethod || !hasArguments { problem = "request without method or arguments" }
  }

  private mutating func parseNamed(_ reader: inout MessagePackReader, _ block: [UInt8], _ hole: Hole?)
    throws(Stop)
  {
    let bytes = block.span
    let start = reader.offset
    switch try Self.head(&reader, bytes) {
    case .map(let count):
      guard count <= reader.elementsLeft else { throw .format(.overLimit) }
      for _ in 0..<count {
        let head = try Self.head(&reader, bytes)
        guard case .string(let length) = head.text else {
          problem = "an argument's name is not a string"
          try Self.skipBody(&reader, head, bytes)
          _ = try Self.value(&reader, bytes, hole)
          continue
        }
        guard length <= Limits.path else { throw .fault(.malformed("argument name too long")) }
        let name = try Self.payload(&reader, length, bytes)
        let value = try Self.value(&reader, bytes, hole)
        // Names that no method has come from newer clients, which do not rely on them.
        if let parameter = Borg1Parameter.names[block, name] { arguments.append((parameter, value)) }
      }
    case .array:
      // The original takes the elements for names that it does not know.
      reader.offset = start
      _ = try Self.skip(&reader, bytes)
    default:
      reader.offset = start
      _ = try Self.skip(&reader, bytes)
      problem = "arguments are not a map"
    }
  }

  // MARK: The tuple form

  private mutating func parseTuple(_ reader: inout MessagePackReader, _ block: [UInt8], _ hole: Hole?)
    throws(Stop)
  {
    form = .tuple
    let bytes = block.span
    _ = try Self.skip(&reader, bytes)
    id = try Self.skip(&reader, bytes)
    try parseMethod(&reader, block)
    let start = reader.offset
    guard case .array(let count) = try Self.head(&reader, bytes) else {
      reader.offset = start
      _ = try Self.skip(&reader, bytes)
      problem = "arguments are not an array"
      return
    }
    guard count <= reader.elementsLeft else { throw .format(.overLimit) }
    let parameters = method?.positional
    if parameters == nil { method = nil }
    for index in 0..<count {
      let value = try Self.value(&reader, bytes, hole)
      if let parameters, index < parameters.count { arguments.append((parameters[index], value)) }
    }
  }

  private mutating func parseMethod(_ reader: inout MessagePackReader, _ block: [UInt8]) throws(Stop) {
    let start = reader.offset
    guard case .string(let length) = try Self.head(&reader, block.span).text, length <= Limits.path else {
      reader.offset = start
      _ = try Self.skip(&reader, block.span)
      problem = "method is not a string"
      return
    }
    methodName = try Self.payload(&reader, length, block.span)
    method = Borg1Method.names[block, methodName]
  }

  // MARK: Values

  private static func value(_ reader: inout MessagePackReader, _ bytes: Span<UInt8>, _ hole: Hole?)
    throws(Stop) -> RPCValue
  {
    let start = reader.offset
    let head = try head(&reader, bytes)
    switch head {
    case .nil: return .nil
    case .bool(let value): return .bool(value)
    case .int(let value): return .int(value)
    case .float(let value): return .float(value)
    case .string(let length):
      if length > Limits.borg1Value { return try large(Hole(offset: reader.offset, length: length), hole) }
      return .string(try payload(&reader, length, bytes))
    case .binary(let length):
      if length > Limits.borg1Value { return try large(Hole(offset: reader.offset, length: length), hole) }
      return .binary(try payload(&reader, length, bytes))
    case .uint, .extensionValue, .array, .map:
      try skipBody(&reader, head, bytes)
      return .encoded(start..<reader.offset)
    }
  }

  private static func large(_ found: Hole, _ known: Hole?) throws(Stop) -> RPCValue {
    if found == known { return .spooled(hole: 0, length: found.length, isBinary: true) }
    guard known == nil else { throw .fault(.malformed("more than one value that is too large")) }
    throw .large(found)
  }

  /// The one letter of a top-level key, or 0 for any other key.
  private static func key(_ reader: inout MessagePackReader, _ bytes: Span<UInt8>) throws(Stop) -> UInt8 {
    let start = reader.offset
    guard case .string(length: 1) = try head(&reader, bytes).text else {
      reader.offset = start
      _ = try skip(&reader, bytes)
      return 0
    }
    return bytes[try payload(&reader, 1, bytes).lowerBound]
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

extension MessagePackHead {
  /// A binary as the string of the same bytes: 1.x makes no difference between them.
  fileprivate var text: MessagePackHead {
    if case .binary(let length) = self { .string(length: length) } else { self }
  }
}
