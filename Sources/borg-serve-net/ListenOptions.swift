import NetServer
import ServeCommand

/// The command line of `borg-serve listen`.
struct ListenOptions {
  enum Action {
    case listen
    case check
    case help
    case version
  }

  var action = Action.listen
  var configuration: String?
  var flags = Configuration.Flags()

  static let defaultConfiguration = "/etc/borg-serve/listen.toml"

  struct UsageError: Error {
    let message: String
  }

  /// Reads the words behind `listen`. Help and version count before everything else.
  init(_ words: [String]) throws(UsageError) {
    if words.contains(where: { $0 == "-h" || $0 == "--help" }) { action = .help; return }
    if words.contains("--version") || words.contains("-V") { action = .version; return }
    var rest = words[...]
    while let word = rest.popFirst() {
      let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
      let inline = parts.count == 2 ? parts[1] : nil
      func value() throws(UsageError) -> String {
        if let inline { return inline }
        guard let next = rest.popFirst(), !next.isEmpty else {
          throw UsageError(message: "\(word) needs a value")
        }
        return next
      }
      switch parts[0] {
      case "--config", "-c": configuration = try value()
      case "--check-config":
        action = .check
        if let inline {
          configuration = inline
        } else if let next = rest.first, !next.hasPrefix("-") {
          configuration = next
          rest = rest.dropFirst()
        }
      case "--root": flags.root = try value()
      case "--credentials": flags.credentials = try value()
      case "--address": flags.addresses.append(try value())
      case "--socket": flags.sockets.append(try value())
      default: throw UsageError(message: "unknown argument \(word)")
      }
    }
  }

  static let help = """
    usage: borg-serve listen [--config FILE] [--root DIR] [--address HOST:PORT]... [--socket PATH]...
                             [--credentials FILE]
           borg-serve listen --check-config [FILE] [options]

    Serves Borg repositories over the network: clients of Borg 2.0.0b22 and later reach DIR/alice/laptop as
    http://HOST:PORT/alice/laptop, or https:// where a listener has a certificate.

    options:
      -c, --config FILE     the configuration, /etc/borg-serve/listen.toml unless --root is given
      --check-config [FILE] tell what is wrong with the configuration, or what the server would do, and exit
      --root DIR            where repositories are
      --address HOST:PORT   listen there too; without --credentials only on this machine's own addresses
      --socket PATH         listen on this unix socket too
      --credentials FILE    users and their passwords' hashes, as htpasswd -B makes them
      -V, --version         print the version
      -h, --help            print this

    Signals: HUP reads configuration, credentials and certificates again (as does any change of these files), TERM and
    INT end the server once requests in flight are answered. See borg-serve-listen(1).

    """
}
