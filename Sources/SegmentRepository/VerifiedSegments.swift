import BorgFormat
import Disk
import SystemPackage

/// Some entries of a segment, whole and in their order.
struct VerifiedBlock: Sendable {
  let segment: UInt32
  let entries: [SegmentEntry]
  /// What is wrong behind them; nothing more of the segment follows then.
  let failure: ServeError?
  /// Whether the segment ends here.
  let isLast: Bool
}

/// Reads whole segments, one after another, and verifies their entries, on two threads beside the caller's.
///
/// The threads take turns: one reads a block while the other verifies the one that it has read before, so that the disk is
/// read in one sequence, and checksums are calculated where the data is in the processor's cache already. What they find
/// comes out in the order of the log. Small repositories are read by the caller alone.
///
/// Memory: each thread has a window of 4 MiB, which grows to an entry of `SegmentFormat.entryLimit` where there is one, and
/// at most `mostAhead` blocks of `mostEntries` entries are read before the caller takes them. `stop` has to be called.
final class VerifiedSegments {
  private let work: VerificationWork
  private let threadCount: Int
  /// Blocks that the caller reads itself before threads are started for the rest.
  private let alone: Int
  private var threads: [WorkerThread]?
  private var window: [UInt8] = []
  private var taken = 0
  /// A segment of which something is wrong: what was read of it behind that is of no interest.
  private var damaged: UInt32?

  /// `segments`: their numbers, ascending, and their names below `root`.
  init(_ segments: [(number: UInt32, name: String)], in root: Directory, alone: Int = 4, threads: Int = 2) {
    work = VerificationWork(segments, in: root)
    (self.alone, threadCount) = (alone, threads)
  }

  /// The next block; nil behind the last segment. A segment without entries has one, too.
  func next() -> VerifiedBlock? {
    while true {
      if threads == nil, taken >= alone { start() }
      if threads?.isEmpty ?? true { _ = work.step(&window) }
      taken += 1
      guard let block = work.take() else { return nil }
      if block.segment == damaged { continue }
      if block.failure != nil { damaged = block.segment }
      return block
    }
  }

  /// Ends the threads; nothing may be asked for afterwards.
  func stop() {
    work.stop()
    for thread in threads ?? [] { thread.join() }
    threads = []
  }

  /// Where the system gives no threads, the caller goes on alone.
  private func start() {
    threads = (0..<threadCount).compactMap { _ in
      WorkerThread { [work] in
        var window: [UInt8] = []
        while work.step(&window) {}
      }
    }
  }
}

/// What the threads share. A class because it is one thing to all of them.
private final class VerificationWork: Sendable {
  /// Where to read on.
  private struct Place: Sendable {
    /// In `segments`.
    var index = 0
    /// Nil until the segment is opened.
    var file: OpenFile?
    var offset = 0

    mutating func skipSegment() { self = Place(index: index + 1) }
  }

  private struct State: Sendable {
    /// Nil while a thread has its turn.
    var place: Place? = Place()
    var isAtEnd: Bool
    var isStopped = false
    /// Blocks whose reading has begun, and those that the caller has.
    var begun = 0
    var taken = 0
    /// By their number in the order of the log.
    var ready: [Int: VerifiedBlock] = [:]
  }

  private static let mostAhead = 6
  private static let mostEntries = 1 << 14

  private let segments: [(number: UInt32, name: String)]
  private let root: Directory
  private let state: Monitor<State>

  init(_ segments: [(number: UInt32, name: String)], in root: Directory) {
    (self.segments, self.root) = (segments, root)
    state = Monitor(State(isAtEnd: segments.isEmpty))
  }

  func stop() { state.update { $0.isStopped = true } }

  /// Waits for the next block; nil behind the last one.
  func take() -> VerifiedBlock? {
    let block: VerifiedBlock? = state.wait { state in
      if let block = state.ready.removeValue(forKey: state.taken) {
        state.taken += 1
        return .some(block)
      }
      return state.isAtEnd && state.taken == state.begun ? .some(nil) : nil
    }
    // There is room for another one.
    state.wake(0)
    return block
  }

  /// Reads and verifies the next block that nobody reads yet; false if there is none, or nobody wants it any more.
  func step(_ window: inout [UInt8]) -> Bool {
    let turn: (number: Int, place: Place)? = state.wait { state in
      if state.isStopped || state.isAtEnd { return .some(nil) }
      guard state.begun - state.taken < Self.mostAhead, let place = state.place else { return nil }
      state.place = nil
      defer { state.begun += 1 }
      return .some((state.begun, place))
    }
    guard let turn else { return false }
    var place = turn.place
    let segment = segments[place.index].number
    var reading = read(&place, &window)
    state.update { [place] state in
      state.isAtEnd = place.index == segments.count
      state.place = place
    }
    let block = reading.verify(segment, &window)
    state.update { $0.ready[turn.number] = block }
    return true
  }

  /// A block that was read.
  private struct Reading {
    var cursor: SegmentCursor?
    var end = 0
    var failure: ServeError?
    var isLast = false

    mutating func verify(_ segment: UInt32, _ window: inout [UInt8]) -> VerifiedBlock {
      var entries: [SegmentEntry] = []
      do throws(ServeError) {
        while let next = cursor?.offset, next < end, let entry = try cursor?.next() { entries.append(entry) }
      } catch {
        failure = error
      }
      if let released = cursor?.releaseWindow() { window = released }
      return VerifiedBlock(segment: segment, entries: entries, failure: failure, isLast: isLast)
    }
  }

  /// Reads at a place, and moves it on.
  private func read(_ place: inout Place, _ window: inout [UInt8]) -> Reading {
    var reading = Reading()
    let (segment, name) = segments[place.index]
    do throws(ServeError) {
      let file: OpenFile
      if let known = place.file {
        file = known
      } else {
        file = try ServeError.doing("open", "segment \(segment)") { () throws(Errno) in try root.file(name) }
      }
      var cursor = try SegmentCursor(file, segment: segment, from: place.offset, reusing: &window)
      let end: Int?
      do throws(ServeError) {
        end = try cursor.loadBlock(most: Self.mostEntries)
      } catch {
        window = cursor.releaseWindow()
        throw error
      }
      if let end {
        (place.file, place.offset) = (file, end)
        reading.end = end
      } else {
        place.skipSegment()
        reading.isLast = true
      }
      reading.cursor = cursor
    } catch {
      place.skipSegment()
      (reading.failure, reading.isLast) = (error, true)
    }
    return reading
  }
}
