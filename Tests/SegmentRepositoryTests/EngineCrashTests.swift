import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import TestKit
import Testing

@testable import SegmentRepository

/// Sessions that end in the middle of a call, and what the next one finds.
@Suite struct EngineCrashTests {
  /// What a client did, and what it was told.
  struct Client {
    var acknowledged: [ObjectID: String] = [:]
    /// What a commit that was asked for and not answered would make current.
    var inFlight: [ObjectID: String]?
    /// A commit that failed, and was answered so.
    var hasRefusal = false
    var errors: [ServeError] = []

    /// Runs one transaction; false at the first error.
    mutating func transact(_ session: SegmentRepository, _ generator: inout SeededGenerator) -> Bool {
      var current = acknowledged
      do throws(ServeError) {
        for _ in 0..<Int.random(in: 2..<9, using: &generator) {
          let number = Int.random(in: 0..<10, using: &generator)
          if generator.oneIn(4), current[numbered(number)] != nil {
            try session.delete(numbered(number))
            current[numbered(number)] = nil
          } else {
            let text =
              "\(generator.next())"
              + String(repeating: "y", count: Int.random(in: 0..<250, using: &generator))
            try session.put(number, text)
            current[numbered(number)] = text
          }
          if generator.oneIn(6) { _ = try session.count() }
        }
      } catch {
        errors.append(error)
        return false
      }
      inFlight = current
      let (compacts, cleans) = (!generator.oneIn(4), generator.oneIn(3))
      do throws(ServeError) {
        try session.commit(compact: compacts, threshold: 0.1, cleanup: cleans)
      } catch {
        errors.append(error)
        hasRefusal = true
        return false
      }
      acknowledged = current
      inFlight = nil
      return true
    }

    /// Whether a repository may hold this afterwards.
    func admits(_ found: [ObjectID: String], refusalCounts: Bool = false) -> Bool {
      found == acknowledged || (!refusalCounts || !hasRefusal) && found == inFlight
    }
  }

  private static func run(_ session: SegmentRepository, _ client: inout Client, seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    for _ in 0..<4 { guard client.transact(session, &generator) else { return } }
  }

  /// How many calls a whole run makes.
  private static func calls(seed: UInt64) throws -> Int {
    var bed = try EngineBed(segmentSize: 300)
    let before = bed.disk.failableCount
    var client = Client()
    run(try bed.session(), &client, seed: seed)
    #expect(client.errors == [])
    return bed.disk.failableCount - before
  }

  /// What is wrong with a repository that a crash has left.
  static func judge(_ bed: inout EngineBed, _ client: Client, refusalCounts: Bool = false) -> [String] {
    var wrong: [String] = []
    do throws(ServeError) {
      let found = try bed.contents()
      if !client.admits(found, refusalCounts: refusalCounts) {
        wrong.append(
          "\(found.keys.map(\.word3).sorted()) instead of \(client.acknowledged.keys.map(\.word3).sorted())")
      }
      if RawRepository(bed.disk).committed != nil {
        bed.notes.clear()
        if try !bed.check() { wrong += ["check is false"] + bed.notes.lines(.error) }
      }
      let session = try bed.session()
      try session.put(50, "next")
      try session.delete(numbered(50))
      try session.put(51, "next")
      try session.commit(compact: true)
      var expected = found
      expected[numbered(51)] = "next"
      if try session.everything() != expected {
        wrong.append("the next session's commit shows something else")
      }
      try session.close()
      if try bed.contents() != expected { wrong.append("what the next session committed is not there") }
      if try !bed.check() { wrong.append("check is false after the next session") }
      wrong += bed.leftovers.map { "left behind: \($0)" }
      let raw = RawRepository(bed.disk)
      wrong += raw.faults(ofIndex: bed.disk.contents("index.\(raw.committed ?? -1)") ?? [])
    } catch {
      wrong.append("\(error)")
    }
    return wrong
  }

  @Test(arguments: [UInt64(1), 2])
  func `a process killed at any call leaves each transaction whole or not at all`(seed: UInt64) throws {
    for number in 0..<(try Self.calls(seed: seed)) {
      var bed = try EngineBed(segmentSize: 300)
      bed.disk.losePower(after: number)
      var client = Client()
      if let session = try? bed.session() { Self.run(session, &client, seed: seed) }
      try bed.go(on: bed.disk.kill())
      #expect(Self.judge(&bed, client) == [], "call \(number)")
    }
  }

  @Test(arguments: [UInt64(1), 2, 3])
  func `a power cut at any call leaves each transaction whole or not at all`(seed: UInt64) throws {
    for number in 0..<(try Self.calls(seed: seed)) {
      var bed = try EngineBed(segmentSize: 300)
      bed.disk.losePower(after: number)
      var client = Client()
      if let session = try? bed.session() { Self.run(session, &client, seed: seed) }
      try bed.go(on: bed.disk.powerCut(seed: UInt64(number) &* 7 &+ seed))
      #expect(Self.judge(&bed, client) == [], "call \(number)")
    }
  }

  /// What a killed session has written may not be on the disk when the next one builds upon it.
  @Test(arguments: [UInt64(4), 5])
  func `a power cut after a kill loses nothing of what was acknowledged since`(seed: UInt64) throws {
    let calls = try Self.calls(seed: seed)
    for number in stride(from: 0, to: calls, by: 2) {
      var bed = try EngineBed(segmentSize: 300)
      bed.disk.losePower(after: number)
      var client = Client()
      if let session = try? bed.session() { Self.run(session, &client, seed: seed) }
      try bed.go(on: bed.disk.kill())
      let session = try bed.session()
      let found = try session.everything()
      #expect(client.admits(found))
      try session.put(60, "second")
      try session.commit(compact: false)
      try bed.go(on: bed.disk.powerCut(seed: UInt64(number)))
      client.acknowledged = found
      client.acknowledged[numbered(60)] = "second"
      client.inFlight = nil
      #expect(Self.judge(&bed, client) == [], "call \(number)")
    }
  }

  /// One call fails; the session goes on.
  @Test(arguments: [Errno.noSpace, .ioError])
  func `a call that fails ends in a clear error, and nothing of the transaction is kept`(errno: Errno) throws
  {
    let seed: UInt64 = 6
    for number in 0..<(try Self.calls(seed: seed)) {
      var bed = try EngineBed(segmentSize: 300)
      var client = Client()
      bed.disk.fail(after: number, with: errno)
      guard let session = try? bed.session() else {
        #expect(bed.leftovers == [], "call \(number)")
        continue
      }
      Self.run(session, &client, seed: seed)
      bed.disk.heal()
      try session.rollback()
      let found = try session.everything()
      #expect(client.admits(found, refusalCounts: true), "call \(number): \(client.errors)")
      try session.put(61, "afterwards")
      try session.commit(compact: true)
      client.acknowledged = found
      client.acknowledged[numbered(61)] = "afterwards"
      client.inFlight = nil
      #expect(try session.everything() == client.acknowledged)
      try session.close()
      #expect(bed.leftovers == [], "call \(number)")
      try bed.go(on: bed.disk.powerCut(seed: UInt64(number)))
      #expect(Self.judge(&bed, client) == [], "call \(number): \(client.errors)")
    }
  }

  /// From some point on the disk takes nothing more, for good; names can still be removed.
  @Test(arguments: [CallKind.write, .create, .sync])
  func `a disk that takes nothing more loses nothing that it has`(kind: CallKind) throws {
    let seed: UInt64 = 7
    for number in 0..<40 {
      var bed = try EngineBed(segmentSize: 300)
      var client = Client()
      guard let session = try? bed.session() else { continue }
      bed.disk.fail(kind, after: number, with: .noSpace, permanently: true)
      Self.run(session, &client, seed: seed)
      try? session.rollback()
      // Reading needs no room.
      #expect(client.admits(try session.everything(), refusalCounts: true), "call \(number)")
      try? session.close()
      bed.disk.heal()
      try bed.go(on: bed.disk.kill())
      #expect(Self.judge(&bed, client, refusalCounts: true) == [], "call \(number): \(client.errors)")
    }
  }

  @Test func `a commit whose sync fails is not there, neither now nor after a power cut`() throws {
    for number in 0..<12 {
      for seed in 0..<UInt64(6) {
        var (bed, contents) = try EngineBed.populated()
        let session = try bed.session()
        try session.put(1, "changed")
        try session.put(30, String(repeating: "z", count: 500))
        try session.put(0, "manifest 4")
        bed.disk.fail(.sync, after: number, with: .ioError)
        let error = failure { () throws(ServeError) in try session.commit(compact: false) }
        bed.disk.heal()
        if error == nil {
          contents[numbered(1)] = "changed"
          contents[numbered(30)] = String(repeating: "z", count: 500)
          contents[numbered(0)] = "manifest 4"
        }
        #expect(try session.everything() == contents, "sync \(number)")
        try bed.go(on: bed.disk.powerCut(seed: seed))
        #expect(try bed.contents() == contents, "sync \(number), cut \(seed)")
        #expect(try bed.check())
      }
    }
  }

  /// The name of a COMMIT that failed may come back as long as its removal is not durable.
  @Test func `a commit that failed never completes what is written in its place`() throws {
    for seed in 0..<UInt64(60) {
      var (bed, contents) = try EngineBed.populated()
      let session = try bed.session()
      try session.put(1, "failed")
      // The directory's sync behind the COMMIT's own.
      bed.disk.fail(.sync, after: 3, with: .ioError)
      #expect(failure { () throws(ServeError) in try session.commit(compact: false) } != nil)
      bed.disk.heal()
      try session.put(2, "half")
      try session.put(3, "of it")
      _ = try session.scan(limit: nil, after: nil)
      try bed.go(on: bed.disk.powerCut(seed: seed))
      #expect(try bed.contents() == contents, "cut \(seed)")
      #expect(try bed.check())
      contents = [:]
    }
  }

  @Test func `a first transaction that is cut off is no obstacle`() throws {
    for seed in 0..<UInt64(60) {
      var bed = try EngineBed(segmentSize: 60, perDirectory: 2)
      let session = try bed.session()
      for number in 0..<6 { try session.put(number, "never committed") }
      _ = try session.everything()
      try bed.go(on: bed.disk.powerCut(seed: seed))
      #expect(Self.judge(&bed, Client()) == [], "cut \(seed)")
    }
  }
}
