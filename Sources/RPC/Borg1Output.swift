import BorgFormat

/// Answers of Borg 1.x as they go out: MessagePack without binaries and one-byte string lengths, which clients before 1.4
/// do not understand.
struct Borg1Output {
  /// What has not been sent yet.
  var bytes: [UInt8] = []

  init() { bytes.reserveCapacity(2 * Limits.borg1Output) }

  /// Takes back what was appended since there were `count` bytes.
  mutating func truncate(to count: Int) { bytes.removeLast(bytes.count - count) }

  /// Begins the answer to a request, up to its result.
  mutating func beginAnswer(_ form: Borg1Request.Form, _ id: ArraySlice<UInt8>) {
    switch form {
    case .map:
      bytes.append(0x82)
      key("i")
      bytes.append(contentsOf: id)
      key("r")
    case .tuple:
      bytes.append(0x94)
      bytes.append(0x01)
      bytes.append(contentsOf: id)
      bytes.append(0xc0)
    }
  }

  mutating func key(_ letter: Unicode.Scalar) {
    bytes.append(0xa1)
    bytes.append(UInt8(truncatingIfNeeded: letter.value))
  }

  mutating func `nil`() { bytes.append(0xc0) }

  mutating func bool(_ value: Bool) { bytes.append(value ? 0xc3 : 0xc2) }

  mutating func int(_ value: Int64) {
    var writer = MessagePackWriter(reserving: 9)
    writer.int(value)
    bytes.append(contentsOf: writer.bytes)
  }

  mutating func uint(_ value: UInt64) {
    guard value > UInt64(Int64.max) else { return int(Int64(value)) }
    bytes.append(0xcf)
    append(value, width: 8)
  }

  mutating func array(count: Int) { head(count, short: 0x90, limit: 15, medium: 0xdc) }

  mutating func map(count: Int) { head(count, short: 0x80, limit: 15, medium: 0xde) }

  mutating func string(_ value: String) {
    rawHead(length: value.utf8.count)
    bytes.append(contentsOf: value.utf8)
  }

  mutating func raw(_ value: [UInt8]) {
    rawHead(length: value.count)
    bytes.append(contentsOf: value)
  }

  mutating func rawHead(length: Int) { head(length, short: 0xa0, limit: 31, medium: 0xda) }

  mutating func id(_ id: ObjectID) {
    rawHead(length: ObjectID.size)
    id.append(to: &bytes)
  }

  /// The 32-bit form follows the 16-bit one in all three families.
  private mutating func head(_ count: Int, short: UInt8, limit: Int, medium: UInt8) {
    switch count {
    case 0...limit: bytes.append(short | UInt8(truncatingIfNeeded: count))
    case 0...0xffff:
      bytes.append(medium)
      append(UInt64(count), width: 2)
    default:
      bytes.append(medium + 1)
      append(UInt64(count), width: 4)
    }
  }

  private mutating func append(_ value: UInt64, width: Int) {
    for shift in stride(from: (width - 1) * 8, through: 0, by: -8) {
      bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(shift)))
    }
  }
}
