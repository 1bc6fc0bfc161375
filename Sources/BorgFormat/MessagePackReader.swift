/// Why bytes are not the MessagePack value that was looked for.
public enum MessagePackError: Error, Equatable, Sendable {
  /// The value goes on behind the bytes at hand: read until at least `needed` bytes are there.
  case truncated(needed: Int)
  /// The byte 0xc1, which the format never uses.
  case invalidByte
  /// Deeper, or of more elements, than the caller allows.
  case overLimit
}

/// The head of one MessagePack value: a scalar whole, or the length of what follows it.
///
/// Source: https://github.com/msgpack/msgpack/blob/master/spec.md
public enum MessagePackHead: Equatable, Sendable {
  case `nil`
  case bool(Bool)
  case int(Int64)
  /// An unsigned integer above `Int64.max`.
  case uint(UInt64)
  case float(Double)
  case string(length: Int)
  case binary(length: Int)
  case array(count: Int)
  case map(count: Int)
  case extensionValue(length: Int)
}

/// A cursor over bytes that reads MessagePack heads; whole or nothing, it moves only on success.
public struct MessagePackReader: Sendable {
  /// Position of the next byte to read.
  public var offset: Int
  /// Values that may still be read before the input counts as abusive.
  public var elementsLeft: Int

  public init(offset: Int = 0, elements: Int = Limits.requestElements) {
    self.offset = offset
    self.elementsLeft = elements
  }

  /// Reads the head of the next value and moves behind it, to the payload of a string or binary.
  public mutating func head(in bytes: Span<UInt8>) throws(MessagePackError) -> MessagePackHead {
    guard elementsLeft > 0 else { throw .overLimit }
    guard offset < bytes.count else { throw .truncated(needed: offset + 1) }
    let first = bytes[offset]
    var cursor = offset + 1
    let head: MessagePackHead
    switch first {
    case 0x00...0x7f: head = .int(Int64(first))
    case 0x80...0x8f: head = .map(count: Int(first & 0x0f))
    case 0x90...0x9f: head = .array(count: Int(first & 0x0f))
    case 0xa0...0xbf: head = .string(length: Int(first & 0x1f))
    case 0xc0: head = .nil
    case 0xc1: throw .invalidByte
    case 0xc2: head = .bool(false)
    case 0xc3: head = .bool(true)
    case 0xc4: head = .binary(length: Int(try Self.integer(1, in: bytes, at: &cursor)))
    case 0xc5: head = .binary(length: Int(try Self.integer(2, in: bytes, at: &cursor)))
    case 0xc6: head = .binary(length: Int(try Self.integer(4, in: bytes, at: &cursor)))
    case 0xc7: head = .extensionValue(length: 1 + Int(try Self.integer(1, in: bytes, at: &cursor)))
    case 0xc8: head = .extensionValue(length: 1 + Int(try Self.integer(2, in: bytes, at: &cursor)))
    case 0xc9: head = .extensionValue(length: 1 + Int(try Self.integer(4, in: bytes, at: &cursor)))
    case 0xca:
      let bits = UInt32(truncatingIfNeeded: try Self.integer(4, in: bytes, at: &cursor))
      head = .float(Double(Float(bitPattern: bits)))
    case 0xcb: head = .float(Double(bitPattern: try Self.integer(8, in: bytes, at: &cursor)))
    case 0xcc: head = .int(Int64(try Self.integer(1, in: bytes, at: &cursor)))
    case 0xcd: head = .int(Int64(try Self.integer(2, in: bytes, at: &cursor)))
    case 0xce: head = .int(Int64(try Self.integer(4, in: bytes, at: &cursor)))
    case 0xcf:
      let value = try Self.integer(8, in: bytes, at: &cursor)
      head = value > UInt64(Int64.max) ? .uint(value) : .int(Int64(value))
    case 0xd0:
      head = .int(Int64(Int8(truncatingIfNeeded: try Self.integer(1, in: bytes, at: &cursor))))
    case 0xd1:
      head = .int(Int64(Int16(truncatingIfNeeded: try Self.integer(2, in: bytes, at: &cursor))))
    case 0xd2:
      head = .int(Int64(Int32(truncatingIfNeeded: try Self.integer(4, in: bytes, at: &cursor))))
    case 0xd3: head = .int(Int64(bitPattern: try Self.integer(8, in: bytes, at: &cursor)))
    case 0xd4...0xd8: head = .extensionValue(length: 1 + 1 << Int(first - 0xd4))
    case 0xd9: head = .string(length: Int(try Self.integer(1, in: bytes, at: &cursor)))
    case 0xda: head = .string(length: Int(try Self.integer(2, in: bytes, at: &cursor)))
    case 0xdb: head = .string(length: Int(try Self.integer(4, in: bytes, at: &cursor)))
    case 0xdc: head = .array(count: Int(try Self.integer(2, in: bytes, at: &cursor)))
    case 0xdd: head = .array(count: Int(try Self.integer(4, in: bytes, at: &cursor)))
    case 0xde: head = .map(count: Int(try Self.integer(2, in: bytes, at: &cursor)))
    case 0xdf: head = .map(count: Int(try Self.integer(4, in: bytes, at: &cursor)))
    default: head = .int(Int64(Int8(bitPattern: first)))
    }
    offset = cursor
    elementsLeft -= 1
    return head
  }

  /// Moves behind a payload of `length` bytes and gives its place.
  public mutating func payload(_ length: Int, in bytes: Span<UInt8>) throws(MessagePackError) -> Range<Int> {
    guard bytes.count - offset >= length else { throw .truncated(needed: offset + length) }
    let range = offset..<offset + length
    offset += length
    return range
  }

  /// Moves behind the next value, whatever it is, and gives the place that it took.
  ///
  /// A container that announces more elements than are left to read is refused before any of them arrives.
  public mutating func skip(in bytes: Span<UInt8>, depth: Int = Limits.requestDepth)
    throws(MessagePackError) -> Range<Int>
  {
    let start = self
    do {
      try skipBody(of: head(in: bytes), in: bytes, depth: depth)
    } catch {
      self = start
      throw error
    }
    return start.offset..<offset
  }

  /// Moves behind what follows `head`.
  public mutating func skipBody(of head: MessagePackHead, in bytes: Span<UInt8>, depth: Int)
    throws(MessagePackError)
  {
    switch head {
    case .nil, .bool, .int, .uint, .float: break
    case .string(let length), .binary(let length), .extensionValue(let length):
      _ = try payload(length, in: bytes)
    case .array(let count): try skipElements(count, in: bytes, depth: depth)
    case .map(let count): try skipElements(2 * count, in: bytes, depth: depth)
    }
  }

  private mutating func skipElements(_ count: Int, in bytes: Span<UInt8>, depth: Int) throws(MessagePackError)
  {
    guard depth > 0, count <= elementsLeft else { throw .overLimit }
    for _ in 0..<count { _ = try skip(in: bytes, depth: depth - 1) }
  }

  /// Reads a big-endian integer of `width` bytes.
  private static func integer(_ width: Int, in bytes: Span<UInt8>, at cursor: inout Int)
    throws(MessagePackError) -> UInt64
  {
    guard bytes.count - cursor >= width else { throw .truncated(needed: cursor + width) }
    var value: UInt64 = 0
    for index in cursor..<cursor + width { value = value << 8 | UInt64(bytes[index]) }
    cursor += width
    return value
  }
}
