/// Copies words of a table as the bytes of a file, where integers are little-endian.
///
/// This file is one of those made for unsafe code: byte by byte, writing the index of ten million objects took half a
/// second more than the copy of its memory. Both ranges are checked before the copy.
func copyWords(_ words: [UInt64], from start: Int, count: Int, to bytes: inout [UInt8], at offset: Int) {
  precondition(start >= 0 && count >= 0 && start + count <= words.count)
  precondition(offset >= 0 && offset + count * 8 <= bytes.count)
  unsafe words.withUnsafeBytes { source in
    unsafe bytes.withUnsafeMutableBytes { target in
      let part = unsafe UnsafeRawBufferPointer(rebasing: source[start * 8..<(start + count) * 8])
      unsafe UnsafeMutableRawBufferPointer(rebasing: target[offset..<offset + count * 8]).copyMemory(
        from: part)
    }
  }
  #if _endian(big)
    #error("the words of a table are little-endian")
  #endif
}
