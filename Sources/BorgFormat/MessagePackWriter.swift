/// Appends MessagePack values, each in its shortest form, to a byte array.
///
/// Strings are written with the bytes given: Borg puts non-UTF-8 names into them unchanged.
public struct MessagePackWriter: Sendable {
  public var bytes: [UInt8]

  public init(reserving capacity: Int = 64) {
    bytes = []
    bytes.reserveCapacity(capacity)
  }

  public mutating func `nil`() { bytes.append(0xc0) }

  public mutating func bool(_ value: Bool) { bytes.append(value ? 0xc3 : 0xc2) }

  public mutating func int(_ value: Int64) {
    switch value {
    case 0...0x7f: bytes.append(UInt8(value))
    case -32..<0: bytes.append(UInt8(bitPattern: Int8(value)))
    case 0...0xff: tagged(0xcc, UInt64(value), width: 1)
    case 0...0xffff: tagged(0xcd, UInt64(value), width: 2)
    case 0...0xffff_ffff: tagged(0xce, UInt64(value), width: 4)
    case 0...: tagged(0xcf, UInt64(value), width: 8)
    case -0x80..<0: tagged(0xd0, UInt64(bitPattern: value), width: 1)
    case -0x8000..<0: tagged(0xd1, UInt64(bitPattern: value), width: 2)
    case -0x8000_0000..<0: tagged(0xd2, UInt64(bitPattern: value), width: 4)
    default: tagged(0xd3, UInt64(bitPattern: value), width: 8)
    }
  }

  public mutating func string(_ value: String) {
    stringHead(length: value.utf8.count)
    bytes.append(contentsOf: value.utf8)
  }

  public mutating func string(bytes value: [UInt8]) {
    stringHead(length: value.count)
    bytes.append(contentsOf: value)
  }

  private mutating func stringHead(length: Int) {
    switch length {
    case 0...31: bytes.append(0xa0 | UInt8(length))
    case 0...0xff: tagged(0xd9, UInt64(length), width: 1)
    case 0...0xffff: tagged(0xda, UInt64(length), width: 2)
    default: tagged(0xdb, UInt64(length), width: 4)
    }
  }

  public mutating func binary(_ value: [UInt8]) {
    binaryHead(length: value.count)
    bytes.append(contentsOf: value)
  }

  /// The head alone, for a payload of `length` bytes (at most 2³²−1) that the caller sends behind it.
  public mutating func binaryHead(length: Int) {
    switch length {
    case 0...0xff: tagged(0xc4, UInt64(length), width: 1)
    case 0...0xffff: tagged(0xc5, UInt64(length), width: 2)
    default: tagged(0xc6, UInt64(length), width: 4)
    }
  }

  // MARK: The old raw family

  /// A string as clients before Borg 1.4 understand it: neither str8 nor the binary types.
  public mutating func rawString(_ text: String) {
    rawHeader(count: text.utf8.count)
    bytes.append(contentsOf: text.utf8)
  }

  /// A part of an array as `rawString` writes strings; the family does not tell them from bytes.
  public mutating func rawBytes(_ value: [UInt8], _ range: Range<Int>) {
    rawHeader(count: range.count)
    bytes.append(contentsOf: value[range])
  }

  /// The head alone, for a payload of `count` bytes (at most 2³²−1) that the caller sends behind it.
  public mutating func rawHeader(count: Int) {
    switch count {
    case 0...31: bytes.append(0xa0 | UInt8(count))
    case 0...0xffff: tagged(0xda, UInt64(count), width: 2)
    default: tagged(0xdb, UInt64(count), width: 4)
    }
  }

  public mutating func array(count: Int) {
    switch count {
    case 0...15: bytes.append(0x90 | UInt8(count))
    case 0...0xffff: tagged(0xdc, UInt64(count), width: 2)
    default: tagged(0xdd, UInt64(count), width: 4)
    }
  }

  public mutating func map(count: Int) {
    switch count {
    case 0...15: bytes.append(0x80 | UInt8(count))
    case 0...0xffff: tagged(0xde, UInt64(count), width: 2)
    default: tagged(0xdf, UInt64(count), width: 4)
    }
  }

  /// Appends a value that is MessagePack already, such as a request's id echoed in its answer.
  public mutating func raw(_ value: [UInt8]) { bytes.append(contentsOf: value) }

  private mutating func tagged(_ tag: UInt8, _ value: UInt64, width: Int) {
    bytes.append(tag)
    for shift in stride(from: (width - 1) * 8, through: 0, by: -8) {
      bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(shift)))
    }
  }
}
