import CDeflate

/// The checksum of Borg 1's segment entries: CRC-32 with zlib's polynomial, bit order and complements.
///
/// It finds accidents, not forgeries. Computed by libdeflate, which uses the carry-less multiplication of the
/// CPU where there is one.
public enum CRC32 {
  /// The checksum of some bytes, or of a text that they continue: `crc` is then that of what stands before
  /// them, 0 for nothing, as in zlib's `crc32`.
  public static func checksum(_ bytes: Span<UInt8>, continuing crc: UInt32 = 0) -> UInt32 {
    // libdeflate takes a null pointer, which an empty span may have, for the question where to begin.
    guard !bytes.isEmpty else { return crc }
    return unsafe bytes.withUnsafeBytes { buffer in
      unsafe libdeflate_crc32(crc, buffer.baseAddress, buffer.count)
    }
  }

  /// The checksum of a part of an array, which has to lie in it; see the overload for spans.
  public static func checksum(_ bytes: [UInt8], _ range: Range<Int>, continuing crc: UInt32 = 0) -> UInt32 {
    checksum(bytes.span.extracting(range), continuing: crc)
  }
}
