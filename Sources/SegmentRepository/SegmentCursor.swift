import BorgFormat
import Disk
import SystemPackage

/// One entry of a segment.
struct SegmentEntry {
  let tag: SegmentTag
  /// All zero for a commit.
  let id: ObjectID
  /// Bytes from the beginning of the segment's file.
  let offset: Int
  /// Bytes of the whole entry.
  let size: Int
}

/// Reads the entries of one segment in their order.
///
/// Throws `integrity` with the original's words where an entry is damaged, and is at its end then. The rules are those of
/// borg 1.4.5 `src/borg/repository.py`, `LoggedIO.iter_objects` and `_read`.
struct SegmentCursor {
  /// How much of an entry is looked at.
  enum Depth {
    /// Headers and ids only: what is between them is not even read where entries are large.
    case headers
    /// Everything: checksums are verified.
    case everything
  }

  private let file: OpenFile
  private let segment: UInt32
  private let depth: Depth
  /// Where the next entry begins.
  private(set) var offset: Int
  /// Bytes of the file from `windowStart` on; `windowLength` of them are valid.
  private var window: [UInt8]
  private var windowStart = 0
  private var windowLength = 0

  private static let fullWindow = 4 << 20
  private static let headerWindow = 1 << 16
  private static let jumpWindow = 1 << 12

  /// Begins at an entry's offset; at 0 the magic is checked first.
  init(_ file: OpenFile, segment: UInt32, from offset: Int = 0, _ depth: Depth) throws(ServeError) {
    let size = try ServeError.doing("look at", "segment \(segment)") { () throws(Errno) in try file.size() }
    // Not larger than what is to be read: many segments hold a commit and nothing else.
    let window = [UInt8](
      repeating: 0,
      count: min(
        depth == .everything ? Self.fullWindow : Self.headerWindow,
        max(size - offset, SegmentFormat.keyedHeaderSize)))
    self.init(file, segment: segment, from: offset, depth, window: window)
    try begin()
  }

  private init(_ file: OpenFile, segment: UInt32, from offset: Int, _ depth: Depth, window: [UInt8]) {
    (self.file, self.segment, self.depth, self.offset) = (file, segment, depth, offset)
    self.window = window
  }

  private mutating func begin() throws(ServeError) {
    guard offset == 0 else { return }
    let length = try load(at: 0, SegmentFormat.magic.count)
    guard length >= SegmentFormat.magic.count,
      window[..<SegmentFormat.magic.count].elementsEqual(SegmentFormat.magic)
    else { throw .integrity(SegmentFault.invalidMagic(segment: segment).message) }
    self.offset = SegmentFormat.magic.count
  }

  /// The next entry; nil at the end of the file.
  mutating func next() throws(ServeError) -> SegmentEntry? {
    let start = offset
    guard let (header, length) = try loadEntry() else { return nil }
    let size = header.size
    if depth == .everything {
      let begin = start - windowStart
      guard CRC32.checksum(window, begin + 4..<begin + size) == header.crc else {
        throw fault(.checksumMismatch(segment: segment, offset: start))
      }
    }
    guard let tag = header.tag else { throw fault(.unacceptableTag(segment: segment, offset: start)) }
    var id = ObjectID(0, 0, 0, 0)
    if tag != .commit {
      let begin = start - windowStart + SegmentFormat.headerSize
      guard size >= SegmentFormat.keyedHeaderSize, length >= SegmentFormat.keyedHeaderSize,
        let found = ObjectID(window.span.extracting(begin..<begin + ObjectID.size))
      else {
        throw fault(
          .shortKey(segment: segment, offset: start, got: min(size, length) - SegmentFormat.headerSize))
      }
      id = found
    }
    offset = start + size
    return SegmentEntry(tag: tag, id: id, offset: start, size: size)
  }

  /// Loads the next entry's header, and with `everything` the whole of it; nil at the end of the file. `length` is how many
  /// bytes there are at least, up to those of a header with an id.
  private mutating func loadEntry() throws(ServeError) -> (header: SegmentEntryHeader, length: Int)? {
    let start = offset
    let length = try load(at: start, SegmentFormat.keyedHeaderSize)
    guard length > 0 else { return nil }
    guard let header = SegmentEntryHeader(window.span, at: start - windowStart), length >= 9 else {
      throw fault(.shortHeader(segment: segment, offset: start, needed: SegmentFormat.headerSize))
    }
    let size = header.size
    guard size <= SegmentFormat.entryLimit else {
      throw fault(.tooBig(segment: segment, offset: start, size: size))
    }
    guard size >= SegmentFormat.headerSize else {
      throw fault(.tooSmall(segment: segment, offset: start, size: size))
    }
    if depth == .everything {
      let loaded = try load(at: start, size)
      guard loaded >= size else {
        let body = SegmentFormat.headerSize
        throw fault(.shortData(segment: segment, offset: start, expected: size - body, got: loaded - body))
      }
    }
    return (header, length)
  }

  // MARK: Blocks

  /// Reads everything in blocks, from `offset` on, into a window that other cursors have used; see `loadBlock`.
  init(
    _ file: OpenFile, segment: UInt32, from offset: Int, reusing window: inout [UInt8]
  ) throws(ServeError) {
    if window.isEmpty { window = [UInt8](repeating: 0, count: Self.fullWindow) }
    self.init(file, segment: segment, from: offset, .everything, window: window)
    // A second reference would have it copied when it is written to.
    window = []
    do {
      try begin()
    } catch {
      window = releaseWindow()
      throw error
    }
  }

  /// Gives up the window, for the next cursor.
  mutating func releaseWindow() -> [UInt8] {
    let released = window
    (window, windowLength) = ([], 0)
    return released
  }

  /// Loads the next entry and as many behind it, up to `most` in all, as the window has whole; returns where the last of
  /// them ends, nil at the end of the file. `next` verifies them then without reading on.
  ///
  /// Throws what `next` would throw of the first one, but for what is to be calculated or wrong with its tag and id.
  mutating func loadBlock(most: Int) throws(ServeError) -> Int? {
    guard let (first, _) = try loadEntry() else { return nil }
    var end = offset + first.size
    let limit = windowStart + windowLength
    for _ in 1..<most {
      guard end + SegmentFormat.headerSize <= limit,
        let header = SegmentEntryHeader(window.span, at: end - windowStart),
        header.size >= SegmentFormat.headerSize, end + header.size <= limit
      else { break }
      end += header.size
    }
    return end
  }

  /// The data of the entry that `next` returned last, which was read with `everything`: a range of `bytes`.
  func data(of entry: SegmentEntry) -> Range<Int> {
    let begin = entry.offset - windowStart
    return begin + min(SegmentFormat.keyedHeaderSize, entry.size)..<begin + entry.size
  }

  /// What the ranges of `data` are of.
  var bytes: [UInt8] { window }

  private mutating func fault(_ fault: SegmentFault) -> ServeError {
    // Nothing behind it can be told apart from what it might be made of.
    offset = Int.max / 2
    return .integrity(fault.message)
  }

  /// Has the window hold `count` bytes from `start` on, as far as the file has them; returns how many of them there are.
  private mutating func load(at start: Int, _ count: Int) throws(ServeError) -> Int {
    let end = windowStart + windowLength
    if start >= windowStart && start + count <= end { return count }
    if window.count < count { window += [UInt8](repeating: 0, count: count - window.count) }
    // Where entries are larger than the window, only their headers are read.
    let isJump = depth == .headers && windowLength > 0 && start >= end
    let wanted = isJump ? min(max(Self.jumpWindow, count), window.count) : window.count
    (windowStart, windowLength) = (start, 0)
    do {
      // What the window holds of it is read again: a window is a few entries long, and the kernel has it at hand.
      windowLength = 0
      windowLength = try file.read(at: start, into: &window, count: wanted)
      windowStart = start
    } catch {
      throw .system(SystemFailure("read", "segment \(segment)", error))
    }
    return min(count, windowLength)
  }
}
