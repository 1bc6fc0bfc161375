import BorgFormat

/// A MessagePack value as a client of the tests has it.
indirect enum Value: Hashable, Sendable, ExpressibleByNilLiteral, ExpressibleByBooleanLiteral,
  ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral, ExpressibleByStringLiteral,
  ExpressibleByArrayLiteral
{
  case `nil`
  case bool(Bool)
  case int(Int64)
  case float(Double)
  case string([UInt8])
  case binary([UInt8])
  case array([Value])
  case map([Pair])

  struct Pair: Hashable, Sendable {
    var key: Value
    var value: Value
  }

  init(nilLiteral: ()) { self = .nil }
  init(booleanLiteral value: Bool) { self = .bool(value) }
  init(integerLiteral value: Int64) { self = .int(value) }
  init(floatLiteral value: Double) { self = .float(value) }
  init(stringLiteral value: String) { self = .text(value) }
  init(arrayLiteral elements: Value...) { self = .array(elements) }

  static func text(_ text: String) -> Value { .string(Array(text.utf8)) }

  /// 32 times the same byte.
  static func id(_ byte: UInt8) -> Value { .binary([UInt8](repeating: byte, count: 32)) }

  static func named(_ pairs: KeyValuePairs<String, Value>) -> Value {
    .map(pairs.map { Pair(key: .text($0.key), value: $0.value) })
  }

  var text: String? {
    if case .string(let bytes) = self { String(decoding: bytes, as: UTF8.self) } else { nil }
  }
  var bytes: [UInt8]? { if case .binary(let bytes) = self { bytes } else { nil } }
  var array: [Value]? { if case .array(let values) = self { values } else { nil } }
  var int: Int64? { if case .int(let value) = self { value } else { nil } }

  subscript(key: String) -> Value? {
    guard case .map(let pairs) = self else { return nil }
    return pairs.first { $0.key == .text(key) }?.value
  }

  // MARK: Bytes

  var encoded: [UInt8] {
    var writer = MessagePackWriter()
    encode(into: &writer)
    return writer.bytes
  }

  func encode(into writer: inout MessagePackWriter) {
    switch self {
    case .nil: writer.nil()
    case .bool(let value): writer.bool(value)
    case .int(let value): writer.int(value)
    case .float(let value):
      writer.raw(
        [0xcb] + (0..<8).map { UInt8(truncatingIfNeeded: value.bitPattern >> (56 - 8 * UInt64($0))) })
    case .string(let bytes): writer.string(bytes: bytes)
    case .binary(let bytes): writer.binary(bytes)
    case .array(let values):
      writer.array(count: values.count)
      for value in values { value.encode(into: &writer) }
    case .map(let pairs):
      writer.map(count: pairs.count)
      for pair in pairs {
        pair.key.encode(into: &writer)
        pair.value.encode(into: &writer)
      }
    }
  }

  /// Reads the value at `offset` and moves behind it. Throws `truncated` if more bytes are needed.
  init(_ bytes: [UInt8], at offset: inout Int) throws(MessagePackError) {
    var reader = MessagePackReader(offset: offset, elements: 10_000_000)
    self = try Self.read(&reader, bytes)
    offset = reader.offset
  }

  private static func read(_ reader: inout MessagePackReader, _ bytes: [UInt8]) throws(MessagePackError)
    -> Value
  {
    switch try reader.head(in: bytes.span) {
    case .nil: return .nil
    case .bool(let value): return .bool(value)
    case .int(let value): return .int(value)
    case .float(let value): return .float(value)
    case .string(let length): return .string(Array(bytes[try reader.payload(length, in: bytes.span)]))
    case .binary(let length): return .binary(Array(bytes[try reader.payload(length, in: bytes.span)]))
    case .array(let count):
      var values: [Value] = []
      for _ in 0..<count { values.append(try read(&reader, bytes)) }
      return .array(values)
    case .map(let count):
      var pairs: [Pair] = []
      for _ in 0..<count {
        let key = try read(&reader, bytes)
        pairs.append(Pair(key: key, value: try read(&reader, bytes)))
      }
      return .map(pairs)
    case .uint, .extensionValue: throw .invalidByte
    }
  }
}
