import BorgFormat
import Disk
import SystemPackage

/// A segment file that is being written, from its magic on.
///
/// Small entries are collected, large data goes to the file by itself. A class because entries are written one by one
/// into the same buffer, which is never copied.
final class OutputSegment {
  let file: OpenFile
  private let label: String
  /// What is not in the file yet; it belongs at `flushed`.
  private var buffer = SegmentFormat.magic
  private var flushed = 0
  /// Where write-back was started last.
  private var writtenBack = 0

  /// Bytes that are collected before they are written, and the size from which data goes to the file by itself.
  private static let bufferSize = 256 * 1024
  private static let directSize = 32 * 1024
  /// Bytes after which the disk is asked to begin: the sync at the end is then short.
  private static let writebackStep = 8 << 20

  init(_ file: OpenFile, label: String) {
    (self.file, self.label) = (file, label)
  }

  /// Bytes that the file will have.
  var offset: Int { flushed + buffer.count }

  func appendPut(_ id: ObjectID, _ bytes: [UInt8], _ range: Range<Int>) throws(ServeError) {
    SegmentEntryHeader.appendPut(id, bytes, range, to: &buffer)
    try append(bytes, range)
  }

  func appendDelete(_ id: ObjectID) throws(ServeError) {
    SegmentEntryHeader.appendDelete(id, to: &buffer)
    if buffer.count >= Self.bufferSize { try flush() }
  }

  func appendCommit() throws(ServeError) {
    buffer += SegmentFormat.commitEntry
    try flush()
  }

  /// Appends bytes as they are.
  func append(_ bytes: [UInt8], _ range: Range<Int>) throws(ServeError) {
    if range.count <= Self.directSize {
      buffer += bytes[range]
      if buffer.count >= Self.bufferSize { try flush() }
    } else {
      try flush()
      try write(bytes, range)
    }
  }

  /// Writes what was collected.
  func flush() throws(ServeError) {
    guard !buffer.isEmpty else { return }
    try write(buffer, buffer.indices)
    buffer.removeAll(keepingCapacity: true)
  }

  private func write(_ bytes: [UInt8], _ range: Range<Int>) throws(ServeError) {
    try ServeError.doing("write", label) { () throws(Errno) in try file.write(bytes, range, at: flushed) }
    flushed += range.count
    if flushed - writtenBack >= Self.writebackStep {
      file.startWriteback(at: writtenBack, count: flushed - writtenBack)
      writtenBack = flushed
    }
  }

  /// Makes what is in the file durable.
  func sync() throws(ServeError) {
    try ServeError.doing("make durable", label) { () throws(Errno) in try file.syncData() }
  }
}
