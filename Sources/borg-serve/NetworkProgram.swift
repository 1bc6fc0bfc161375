import BorgFormat
import Disk
import ServeCommand
import SystemPackage

/// `borg-serve listen`: becomes `borg-serve-net`, which has an event loop and TLS and is three times the size.
enum NetworkProgram {
  /// Only as the first of the program's own words, whatever a client has asked for.
  static func isAskedFor(_ arguments: [[UInt8]]) -> Bool {
    arguments.dropFirst().first?.elementsEqual("listen".utf8) == true
  }

  /// Returns only if there is no such program.
  static func run(_ arguments: [[UInt8]]) -> Int32 {
    let places = places()
    for place in places {
      let failure = Host.replace(
        by: place, arguments: [Array("borg-serve listen".utf8)] + arguments.dropFirst(2))
      guard failure == .noSuchFileOrDirectory || failure == .notDirectory else {
        printToStandardError("borg-serve: cannot run \(String(decoding: place, as: UTF8.self)): \(failure)")
        return ExitCode.failure.status(modern: true)
      }
    }
    let names = places.map { String(decoding: $0, as: UTF8.self) }.joined(separator: " nor ")
    printToStandardError(
      "borg-serve: listen needs the program borg-serve-net, which is not installed: there is neither \(names)."
    )
    return ExitCode.failure.status(modern: true)
  }

  /// Beside this program, or where packages put what nobody calls by name.
  private static func places() -> [[UInt8]] {
    guard let own = Host.executable(), let slash = own.lastIndex(of: UInt8(ascii: "/")) else { return [] }
    return ["/borg-serve-net", "/../libexec/borg-serve/borg-serve-net"].map { own[..<slash] + Array($0.utf8) }
  }
}
