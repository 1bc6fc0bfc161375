import BorgFormat
import Disk
import SystemPackage

extension SegmentLog {
  /// Writes a damaged segment anew, with all entries that are found whole in it, wherever they begin.
  ///
  /// Tags that Borg 1 does not know are dropped: the original keeps some of them, and cannot read the result. Source:
  /// borg 1.4.5 `src/borg/repository.py`, `LoggedIO.recover_segment`.
  func recover(_ segment: UInt32) throws(ServeError) {
    let source = try reader(of: segment)
    let label = "segment \(segment)"
    let size = try ServeError.doing("look at", label) { () throws(Errno) in try source.size() }
    try replace(segment) { (output) throws(ServeError) in
      guard size >= SegmentFormat.commitSegmentSize else { return }
      var scan = RecoveryScan(source, size: size, label: label)
      while let (bytes, range) = try scan.next() { try output.append(bytes, range) }
    }
  }
}

/// Finds whole entries among arbitrary bytes.
private struct RecoveryScan {
  private let file: OpenFile
  private let size: Int
  private let label: String
  private var offset = 0
  private var window: [UInt8]
  private var windowStart = 0
  private var windowLength = 0

  init(_ file: OpenFile, size: Int, label: String) {
    (self.file, self.size, self.label) = (file, size, label)
    // Room for the largest entry wherever it begins in the first half.
    window = [UInt8](repeating: 0, count: min(size, 2 * SegmentFormat.entryLimit))
  }

  /// The next whole entry's bytes; nil at the end.
  mutating func next() throws(ServeError) -> ([UInt8], Range<Int>)? {
    while size - offset >= SegmentFormat.headerSize {
      try load()
      let start = offset - windowStart
      guard let header = SegmentEntryHeader(window.span, at: start), isPlausible(header),
        CRC32.checksum(window, start + 4..<start + header.size) == header.crc
      else {
        offset += 1
        continue
      }
      offset += header.size
      return (window, start..<start + header.size)
    }
    return nil
  }

  private func isPlausible(_ header: SegmentEntryHeader) -> Bool {
    guard header.size <= size - offset else { return false }
    switch header.tag {
    case .put: return (SegmentFormat.keyedHeaderSize...SegmentFormat.entryLimit).contains(header.size)
    case .delete: return header.size == SegmentFormat.keyedHeaderSize
    case .commit: return header.size == SegmentFormat.headerSize
    case nil: return false
    }
  }

  /// Has the window hold the largest entry that may begin at `offset`.
  private mutating func load() throws(ServeError) {
    let needed = min(SegmentFormat.entryLimit, size - offset)
    guard offset < windowStart || offset + needed > windowStart + windowLength else { return }
    windowStart = offset
    windowLength = try ServeError.doing("read", label) { () throws(Errno) in
      try file.read(at: offset, into: &window, count: min(window.count, size - offset))
    }
    guard windowLength >= needed else { throw .integrity("\(label) became shorter while it was read") }
  }
}
