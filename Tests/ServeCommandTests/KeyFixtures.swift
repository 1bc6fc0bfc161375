/// Base64 of public keys made by `ssh-keygen` of OpenSSH 9.2 for these tests; the private ones are gone.
///
/// The two security keys are the Ed25519 key and the point of the ECDSA key, in the layout of OpenSSH's
/// `PROTOCOL.u2f` with the application `ssh:`.
enum KeyFixtures {
  static let ed25519 =
    "AAAAC3NzaC1lZDI1NTE5AAAAIIWqrLniDAGRLRp36lZoKNnjjBvMCsbFTmwwp7YJkhs3"
  static let ecdsa256 =
    "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBCWewKq+G6cN53NJ+Mx+HOchROXDLYsM7HixSR"
    + "lpwRlHgBNJtHuQ7bwfJBNwq4LQGkVDfT7kcqs3eqM1bYEaD/4="
  static let ecdsa384 =
    "AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBOE+I1h6JQlFHoP2PJdezropFIHpUMx5btBrcZ"
    + "Gl6lH7pUj+2nt5ssvZNSQn2IZStemfW+HazhxhuaPZ25k17gXc4mUKBLnH2u8Z1ko4vFNo0ngpdeG1u/HMhv6p/JbZ"
    + "UQ=="
  static let ecdsa521 =
    "AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAB/+dNtmzbsHxVdUZa99KyumlRIlrI23HHEYd"
    + "xfXIGY4AJYy3/ieuOek3xDEfenq7KUT+1EB43rpGJETzc63V8M5wALLvCXWJNKXO8EmtONvHcAWoK4HDUjt6/dzxjc"
    + "cdTVdQQ5+FB6AmbZyonoueadnbsALoxYPvrWoAvmpJdya8bUCg=="
  static let rsa2048 =
    "AAAAB3NzaC1yc2EAAAADAQABAAABAQCuiSnKUNxvtcYT/L0rFrrpORm+vNCK8jjfYRvuERyJPKXba/AJ8bOdD0Z2K1"
    + "cM39wBY4rgbmINo3D2sgkF0/3GpYA4987btFEhW7OiXKRw/o4pvcE17beDuAPjqCutXig5+O5I0YmTWaWy940RxeY7"
    + "qf4tmH/7BEANh3Wqk/sQ3cv0RgooN0Lf+iTARfoq7uSF+NZ77WPhFAdLqZ6wtyCATOaXuc6xhu5bNPLI5dD8R4hk9w"
    + "7YPpSb63A6+kwVK/5y520FO9m+B0nbIwyPe3CYRTtKE8ysEj0R3E/iWGUIGXMjSZDyLBUYlovAhZjhTp7NldfsGZWt"
    + "3ZcnBz+8GcgB"
  static let rsa1024 =
    "AAAAB3NzaC1yc2EAAAADAQABAAAAgQDC6N4oSHMQL39cne+K5MuYZIjmZRaDdn/J+cGFvTf2mh4fK+tUVajdi9UOFV"
    + "wa7M0mYlnFZpifvauy+b+iOjyFBQfbjx4cGlKZNnhGqEIcXq4GTxNMXCHH3AogSiTM7Fs4uQ02Lfc9QaFmX+x1aXJi"
    + "0jOiQHf6z9Fi80EaHpmf7w=="
  static let dsa =
    "AAAAB3NzaC1kc3MAAACBAIlV77Ai549qCrsQ5CLf0UiRuujKwgcUzBKHBx81t1xHsxBK5CDwGKj85077BxWhrXlZe/"
    + "0s+RtzA0N0QFEMjjHSzusAvxGdadOulskH2m7nDsB9zIGnHQqNbqpDP50mn9BNP+hfiUYV6eF/6HTnSwTfqKU7X3/F"
    + "RzpRRn97cWhRAAAAFQDOhGFwdnz9Oe6EM2uDRLEy4VNQkwAAAIAWKdlGDaDw3F6SiruIhaiblSC3p2GK9vX+wLgasD"
    + "b1CW3hqc/w/WBNy8ve6M/JhwX5pELpMfXqPgBcJuJ9E/kU12+gUpjQTNi3cQ8jbslIpDDhMNfiuiG0jE0OHKlffBJB"
    + "OEgwgu5/AyNDYEa6siC/UJeXZgF3UF6yzRIkjMEcaQAAAIEAhjyySgVbG4XdkKiNbu2AwsUbcJ6BnSz/mlq1Y1P4u+"
    + "p4OSqBVmR+PZUjArRSjT5DM0Y1bLQd4JENdkVmEgOlIRuUC879MR3YHRlu0Jgqznd2/CICHTAxTrNySQiencTrt/Ze"
    + "GinpEAPm+13ye5kwbekHHgkB2NO0kFikAHM/63w="
  static let securityKeyEd25519 =
    "AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIIWqrLniDAGRLRp36lZoKNnjjBvMCsbFTmwwp7YJkhs3AA"
    + "AABHNzaDo="
  static let securityKeyECDSA =
    "AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBCWewKq+G6cN53NJ+M"
    + "x+HOchROXDLYsM7HixSRlpwRlHgBNJtHuQ7bwfJBNwq4LQGkVDfT7kcqs3eqM1bYEaD/4AAAAEc3NoOg=="

  /// Type and base64 of each kind of key that is taken.
  static let good: [(type: String, base64: String)] = [
    ("ssh-ed25519", ed25519), ("sk-ssh-ed25519@openssh.com", securityKeyEd25519),
    ("ecdsa-sha2-nistp256", ecdsa256), ("ecdsa-sha2-nistp384", ecdsa384), ("ecdsa-sha2-nistp521", ecdsa521),
    ("sk-ecdsa-sha2-nistp256@openssh.com", securityKeyECDSA), ("ssh-rsa", rsa2048),
  ]
}
