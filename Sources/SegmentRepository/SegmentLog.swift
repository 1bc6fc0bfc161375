import BorgFormat
import Disk
import SystemPackage

/// The segment files of a repository: finds, reads and writes them. Knows nothing of what is current in them.
///
/// Written segments are made durable together, when `sync` is called or the one being written is full: a reference to an
/// object is never durable before the object, since commits are written behind a `sync`. Source: borg 1.4.5
/// `src/borg/repository.py`, `LoggedIO`.
final class SegmentLog {
  private let root: Directory
  private let segmentsPerDirectory: UInt32
  /// Bytes after which no entry is added to a segment.
  private let limit: Int

  /// The number of the segment that is being written, or that would be next.
  private(set) var segment: UInt32 = 0
  private var output: OutputSegment?
  /// The segment of the last commit that was written here, which is durable.
  private(set) var lastCommit: UInt32?
  /// Closed segments whose data is not known to be durable, and directories with new names in them.
  private var unsynced: [OpenFile] = []
  private var unsyncedDirectories: Set<String> = []
  /// Directories whose own names are durable; of others a killed session may have made them a moment ago.
  private var knownDirectories: Set<String> = []
  /// Directories of which names were removed that a power cut may bring back.
  private var emptied: Set<String> = []

  /// Whether nothing was committed yet. Then no segment's name is to be durable before those of the ones before it: by
  /// their numbers, all from 0 on, the leavings of a first transaction are told from those of a lost repository.
  private var isFirst = false

  private var readers: [UInt32: OpenFile] = [:]
  private static let mostReaders = 32

  /// Closed segments that wait for their sync, and bytes of one that does not wait.
  private static let mostUnsynced = 16
  private static let largestUnsynced = 8 << 20

  init(root: Directory, segmentsPerDirectory: UInt32, limit: Int) {
    (self.root, self.segmentsPerDirectory, self.limit) = (root, segmentsPerDirectory, limit)
  }

  // MARK: Names

  func name(of segment: UInt32) -> String { "\(directory(of: segment))/\(segment)" }

  private func directory(of segment: UInt32) -> String { "data/\(segment / segmentsPerDirectory)" }

  /// The numbers of all segment files, ascending. A missing `data` has none.
  func segments() throws(ServeError) -> [UInt32] {
    var found: [UInt32] = []
    for directory in try directories() { found += try segments(in: directory) }
    return found.sorted()
  }

  /// Shows the segments from a number on, ascending, for as long as `goesOn` says so: one directory is read at a time.
  func forEachSegment(from first: UInt32, _ goesOn: (UInt32) throws(ServeError) -> Bool) throws(ServeError) {
    for directory in try directories() where directory >= first / segmentsPerDirectory {
      for segment in try segments(in: directory).sorted() where segment >= first {
        guard try goesOn(segment) else { return }
      }
    }
  }

  /// The highest number of a segment file.
  func latestSegment() throws(ServeError) -> UInt32? {
    for directory in try directories().reversed() {
      if let last = try segments(in: directory).max() { return last }
    }
    return nil
  }

  /// The numbers of the directories below `data`, ascending.
  private func directories() throws(ServeError) -> [UInt32] {
    do {
      return try root.directory("data").entries().compactMap(Self.number).sorted()
    } catch .noSuchFileOrDirectory {
      return []
    } catch {
      throw .system(SystemFailure("list", "data", error))
    }
  }

  private func segments(in directory: UInt32) throws(ServeError) -> [UInt32] {
    do {
      return try root.directory("data/\(directory)").entries().compactMap(Self.number)
    } catch .noSuchFileOrDirectory, .notDirectory {
      return []
    } catch {
      throw .system(SystemFailure("list", "data/\(directory)", error))
    }
  }

  /// A decimal number without decoration, as segments and their directories are named.
  static func number(_ name: String) -> UInt32? {
    guard !name.isEmpty, name.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt32(name),
      number <= SegmentFormat.largestSegment, String(number) == name
    else { return nil }
    return number
  }

  /// Bytes of a segment's file; nil if there is none. A file without bytes is one that was being deleted.
  func size(of segment: UInt32) throws(ServeError) -> Int? {
    try ServeError.doing("look at", "segment \(segment)") { () throws(Errno) in
      try root.status(name(of: segment))?.size
    }
  }

  // MARK: Reading

  /// The open file of a segment; throws `ENOENT` as a failure to open it.
  func reader(of segment: UInt32) throws(ServeError) -> OpenFile {
    if let output, segment == self.segment {
      try output.flush()
      return output.file
    }
    if let file = readers[segment] { return file }
    if readers.count >= Self.mostReaders { readers.removeAll(keepingCapacity: true) }
    let name = name(of: segment)
    let file = try ServeError.doing("open", "segment \(segment)") { () throws(Errno) in try root.file(name) }
    readers[segment] = file
    return file
  }

  func cursor(_ segment: UInt32, from offset: Int = 0, _ depth: SegmentCursor.Depth) throws(ServeError)
    -> SegmentCursor
  {
    try SegmentCursor(try reader(of: segment), segment: segment, from: offset, depth)
  }

  /// Reads whole segments in this order, ahead of whoever looks at them. Not for one that is being written.
  func verified(_ segments: [UInt32]) -> VerifiedSegments {
    VerifiedSegments(segments.map { ($0, name(of: $0)) }, in: root)
  }

  /// Forgets open files: what has their names may have been exchanged.
  func forgetReaders() { readers.removeAll() }

  /// Whether the segment ends with a commit, and is whole.
  ///
  /// The end is looked at first, so that other segments are not read.
  func isCommitted(_ segment: UInt32) throws(ServeError) -> Bool {
    let file = try reader(of: segment)
    let commit = SegmentFormat.commitEntry
    let end: [UInt8]
    do {
      let size = try file.size()
      guard size >= SegmentFormat.commitSegmentSize else { return false }
      end = try file.read(at: size - commit.count, count: commit.count)
    } catch {
      throw .system(SystemFailure("read", "segment \(segment)", error))
    }
    guard end == commit else { return false }
    var hasCommit = false
    do {
      var cursor = try cursor(segment, .everything)
      while let entry = try cursor.next() {
        if entry.tag == .commit { hasCommit = true } else if hasCommit { return false }
      }
    } catch .integrity {
      return false
    }
    return hasCommit
  }

  /// The last segment that ends with a commit.
  func lastCommittedSegment() throws(ServeError) -> UInt32? {
    for directory in try directories().reversed() {
      for segment in try segments(in: directory).sorted(by: >) where try isCommitted(segment) {
        return segment
      }
    }
    return nil
  }

  // MARK: Writing

  /// Whether the next entry begins a new segment: the one at hand is full, or it is the manifest's, which is alone.
  func needsNewSegment(for id: ObjectID) -> Bool {
    id == .manifest || output.map { $0.offset > limit } ?? false
  }

  /// Writes a PUT; returns where it begins.
  func appendPut(_ id: ObjectID, _ bytes: [UInt8], _ range: Range<Int>) throws(ServeError) -> EntryLocation {
    if needsNewSegment(for: id) { try finishSegment() }
    let output = try currentOutput()
    let offset = UInt32(truncatingIfNeeded: output.offset)
    try output.appendPut(id, bytes, range)
    return EntryLocation(segment: segment, offset: offset)
  }

  /// Writes a DELETE; returns its segment.
  func appendDelete(_ id: ObjectID) throws(ServeError) -> UInt32 {
    if needsNewSegment(for: id) { try finishSegment() }
    try currentOutput().appendDelete(id)
    return segment
  }

  /// Makes everything written so far durable, then writes a COMMIT into a segment of its own, durably; returns that
  /// segment. If it throws, the commit is not there.
  func appendCommit() throws(ServeError) -> UInt32 {
    try finishSegment()
    try sync()
    let output = try currentOutput()
    let committed = segment
    do {
      try output.appendCommit()
      try finishSegment()
      try sync()
    } catch {
      discardOutput()
      try? remove(committed)
      throw error
    }
    lastCommit = committed
    return committed
  }

  /// As `appendCommit`, but at the end of the segment at hand.
  func appendIntermediateCommit() throws(ServeError) -> UInt32 {
    let output = try currentOutput()
    let committed = segment
    try output.flush()
    try output.sync()
    try sync()
    try output.appendCommit()
    try finishSegment()
    try sync()
    lastCommit = committed
    return committed
  }

  private func currentOutput() throws(ServeError) -> OutputSegment {
    if let output { return output }
    guard segment <= SegmentFormat.largestSegment else {
      throw .unsupported("The repository has no numbers left for segments.")
    }
    readers[segment] = nil
    let label = "segment \(segment)"
    let file = try ServeError.doing("create", label) { () throws(Errno) in
      do throws(Errno) {
        return try root.file(name(of: segment), .createByMask)
      } catch .noSuchFileOrDirectory {
        let directory = directory(of: segment)
        for made in try root.makeDirectories(directory) {
          unsyncedDirectories.insert(made.parentName ?? "")
        }
        return try root.file(name(of: segment), .createByMask)
      }
    }
    if !knownDirectories.contains(directory(of: segment)) { unsyncedDirectories.insert("data") }
    unsyncedDirectories.insert(directory(of: segment))
    let output = OutputSegment(file, label: label)
    self.output = output
    return output
  }

  /// Ends the segment at hand, if there is one; its data is durable after the next `sync`.
  func finishSegment() throws(ServeError) {
    guard let output else { return }
    try output.flush()
    self.output = nil
    segment += 1
    // A large one is waited for at once, so that what a power cut can cost does not grow with a backup.
    if output.offset > Self.largestUnsynced { return try output.sync() }
    unsynced.append(output.file)
    if isFirst || unsynced.count > Self.mostUnsynced { try sync() }
  }

  /// Makes all segments that are finished, and their names, durable.
  func sync() throws(ServeError) {
    try ServeError.doing("make durable", "segments") { () throws(Errno) in
      for file in unsynced { try file.syncData() }
      for directory in unsyncedDirectories { try root.sync(directory) }
    }
    if unsyncedDirectories.contains("data") { knownDirectories.formUnion(unsyncedDirectories) }
    unsynced = []
    unsyncedDirectories = []
  }

  /// Gives up the segment at hand, and forgets what is open.
  func abandon() {
    discardOutput()
    forgetReaders()
  }

  private func discardOutput() {
    output = nil
    unsynced = []
    unsyncedDirectories = []
  }

  /// Makes segments durable that an earlier session has written, and may not have.
  func makeDurable(after first: UInt32?, upTo last: UInt32) throws(ServeError) {
    var directories: Set<String> = ["data"]
    for segment in try segments() where segment <= last && first.map({ segment > $0 }) ?? true {
      let file = try reader(of: segment)
      try ServeError.doing("make durable", "segment \(segment)") { () throws(Errno) in try file.syncData() }
      directories.insert(directory(of: segment))
    }
    try ServeError.doing("make durable", "segments") { () throws(Errno) in
      for directory in directories { try root.sync(directory) }
    }
  }

  // MARK: Removing

  /// Removes all segments behind a committed one, or all; the next to be written is the one behind it.
  func removeSegments(after last: UInt32?) throws(ServeError) -> Int {
    discardOutput()
    var count = 0
    for segment in try segments().reversed() where last.map({ segment > $0 }) ?? true {
      try remove(segment)
      count += 1
    }
    // A commit among them would complete what is written in their place now.
    try syncRemovals()
    segment = last.map { $0 &+ 1 } ?? 0
    isFirst = last == nil
    // Its commit is durable, or was made so when it was replayed.
    if let last { knownDirectories.insert(directory(of: last)) }
    return count
  }

  /// Writes go on in the segment behind this one, of which nothing is there yet.
  func continueAfter(_ last: UInt32) {
    discardOutput()
    segment = last + 1
  }

  func remove(_ segment: UInt32) throws(ServeError) {
    readers[segment] = nil
    let isRemoved = try ServeError.doing("remove", "segment \(segment)") { () throws(Errno) in
      try root.remove(name(of: segment))
    }
    if isRemoved { emptied.insert(directory(of: segment)) }
  }

  /// Makes the removal of segments durable.
  func syncRemovals() throws(ServeError) {
    for directory in emptied {
      try ServeError.doing("make durable", directory) { () throws(Errno) in
        do throws(Errno) {
          try root.sync(directory)
        } catch .noSuchFileOrDirectory {
          // Gone as a whole, and its names with it.
        }
      }
    }
    emptied = []
  }

  /// Removes directories without segments, as far as that goes.
  func removeEmptyDirectories() throws(ServeError) {
    for directory in try directories() { try? root.removeDirectory("data/\(directory)") }
    knownDirectories = []
    try ServeError.doing("make durable", "data") { () throws(Errno) in try root.sync("data") }
  }

  /// Removes what a `replace` that was killed has left, as far as that goes.
  func removeTemporaries() {
    for number in (try? directories()) ?? [] {
      guard let directory = try? root.directory("data/\(number)"), let names = try? directory.entries() else {
        continue
      }
      for name in names where name.hasSuffix(".tmp") && Self.number(String(name.dropLast(4))) != nil {
        _ = try? directory.remove(name)
      }
    }
  }

  /// Puts a whole segment in the place of a damaged one, durably. `write` is given the new file.
  func replace(_ segment: UInt32, _ write: (OutputSegment) throws(ServeError) -> Void) throws(ServeError) {
    let (name, temporary) = (name(of: segment), name(of: segment) + ".tmp")
    let label = "segment \(segment)"
    readers[segment] = nil
    let output = try ServeError.doing("create", label) { () throws(Errno) in
      try root.remove(temporary)
      return OutputSegment(try root.file(temporary, .createByMask), label: label)
    }
    do {
      try write(output)
      try output.flush()
      try output.sync()
      try ServeError.doing("replace", label) { () throws(Errno) in
        try root.rename(temporary, to: name, in: root)
        try root.sync(directory(of: segment))
      }
    } catch {
      _ = try? root.remove(temporary)
      throw error
    }
  }
}

extension ObjectID {
  /// The manifest's: all zero.
  static let manifest = ObjectID(0, 0, 0, 0)
}
