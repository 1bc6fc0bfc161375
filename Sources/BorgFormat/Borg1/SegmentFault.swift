/// Why an entry of a segment cannot be read; offsets are those of the entry in its file.
///
/// Source: borg 1.4.5 `borg/repository.py`, `LoggedIO._read`, `read` and `iter_objects`. Its "data short seek" is left
/// out: it cannot happen with files.
public enum SegmentFault: Error, Equatable, Sendable {
  /// The file does not begin with `SegmentFormat.magic`.
  case invalidMagic(segment: UInt32)
  /// The file ends in the header, of which `needed` bytes were wanted: 9, or 41 where a PUT was.
  case shortHeader(segment: UInt32, offset: Int, needed: Int)
  /// More than `SegmentFormat.entryLimit`.
  case tooBig(segment: UInt32, offset: Int, size: Int)
  /// Less than the header that was wanted.
  case tooSmall(segment: UInt32, offset: Int, size: Int)
  /// The file ends in what follows the header.
  case shortData(segment: UInt32, offset: Int, expected: Int, got: Int)
  /// The file ends in the id, seen where data is not read.
  case shortKey(segment: UInt32, offset: Int, got: Int)
  case checksumMismatch(segment: UInt32, offset: Int)
  /// A tag without meaning, or not a PUT where one was wanted.
  case unacceptableTag(segment: UInt32, offset: Int)
  /// A PUT of another object than the one that was wanted.
  case notWantedID(segment: UInt32, offset: Int)

  /// The original's text, as the client and the log see it behind "Data integrity error: ".
  public var message: String {
    switch self {
    case .invalidMagic(let segment):
      "Invalid segment magic \(place(segment, 0))"
    case .shortHeader(let segment, let offset, let needed):
      "Invalid segment entry header \(place(segment, offset)): unpack requires a buffer of \(needed) bytes"
    case .tooBig(let segment, let offset, let size):
      "Invalid segment entry size \(size) - too big \(place(segment, offset))"
    case .tooSmall(let segment, let offset, let size):
      "Invalid segment entry size \(size) - too small \(place(segment, offset))"
    case .shortData(let segment, let offset, let expected, let got):
      "Segment entry data short read \(place(segment, offset)): expected \(expected), got \(got) bytes"
    case .shortKey(let segment, let offset, let got):
      "Segment entry key short read \(place(segment, offset)): expected \(ObjectID.size), got \(got) bytes"
    case .checksumMismatch(let segment, let offset):
      "Segment entry checksum mismatch \(place(segment, offset))"
    case .unacceptableTag(let segment, let offset):
      "Invalid segment entry header, did not get acceptable tag \(place(segment, offset))"
    case .notWantedID(let segment, let offset):
      "Invalid segment entry header, is not for wanted id \(place(segment, offset))"
    }
  }

  private func place(_ segment: UInt32, _ offset: Int) -> String { "[segment \(segment), offset \(offset)]" }
}
