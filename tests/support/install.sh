#!/usr/bin/env bash
# Installs what the tests talk to into a cache outside the clone, and prints one folder per part on standard output.
#
#   install.sh [python|moto|spark|kafka|kinesis]...        all five when none is named
#
# Progress goes to standard error. The cache is $PINSQL_TEST_CACHE, or else ~/.cache/pinsql-services. A folder's name holds
# a checksum of the versions below, so that a changed version is installed beside the old one and never over it; a file
# named `ready` in it says that it is whole. A lock per part lets several processes ask at once.
set -euo pipefail

cache=${PINSQL_TEST_CACHE:-$HOME/.cache/pinsql-services}

python_packages="deltalake==1.6.6 pyarrow==26.0.1 duckdb==1.5.5 duckdb-extension-delta==1.5.5 duckdb-extension-httpfs==1.5.5 pytz aws-msk-iam-sasl-signer-python==1.0.2"
moto_packages="moto[server]==5.2.5"
spark_packages="pyspark==4.0.0 pyarrow==26.0.1 pandas<3"
spark_jar="io.delta:delta-spark_2.13:4.0.0"
kinesis_npm="kinesis-local@0.6.2 kinesalite@3.3.3"
kinesis_pypi="ministack==1.5.33"
kafka_jars="org.apache.kafka:kafka_2.13:4.1.0 org.apache.kafka:kafka-tools:4.1.0 org.slf4j:slf4j-simple:1.7.36"

say() { echo "pinsql tests: $*" >&2; }

# need TOOL PART HOW: fails with what to install.
need() {
  command -v "$1" >/dev/null 2>&1 && return
  say "\`$1\` is missing, and the part \`$2\` of the tests needs it"
  say "hint: install it ($3), or leave the part out with PINSQL_TEST_WITHOUT=$4"
  exit 3
}

# venv FOLDER PART PACKAGE...: a fresh virtual environment with these packages.
venv() {
  local folder=$1 part=$2
  shift 2
  if ! python3 -m venv "$folder" >&2; then
    say "python3 cannot make a virtual environment"
    say "hint: install it (Debian: apt-get install python3-venv), or leave the part out with PINSQL_TEST_WITHOUT=$part"
    exit 3
  fi
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@" >&2
}

install_python() {
  need python3 python "Debian: apt-get install python3 python3-venv" python
  # shellcheck disable=SC2086
  venv "$1" python $python_packages
}

install_moto() {
  need python3 s3 "Debian: apt-get install python3 python3-venv" s3
  # shellcheck disable=SC2086
  venv "$1" s3 $moto_packages
}

install_spark() {
  need python3 spark "Debian: apt-get install python3 python3-venv" spark
  need java spark "Debian: apt-get install openjdk-17-jre-headless" spark
  need mvn spark "Debian: apt-get install maven" spark
  set -f # `<` and `*` in versions are no patterns
  # shellcheck disable=SC2086
  venv "$1" spark $spark_packages
  set +f
  # Scala and Spark themselves are in the Python package.
  jars "$1" delta-jars "$spark_jar" -DexcludeGroupIds=org.scala-lang,org.apache.spark
}

install_kafka() {
  need java kafka "Debian: apt-get install openjdk-17-jre-headless" kafka
  need mvn kafka "Debian: apt-get install maven" kafka
  need openssl kafka "Debian: apt-get install openssl" kafka
  mkdir -p "$1"
  jars "$1" libs "$kafka_jars"
}

install_kinesis() {
  need python3 kinesis "Debian: apt-get install python3 python3-venv" kinesis
  need node kinesis "Debian: apt-get install nodejs" kinesis
  need npm kinesis "Debian: apt-get install npm" kinesis
  # shellcheck disable=SC2086
  venv "$1" kinesis $kinesis_pypi
  echo '{"private": true}' >"$1/package.json"
  # The optional packages are compiled and keep streams on disk; the tests keep them in memory.
  # shellcheck disable=SC2086
  (cd "$1" && npm install --silent --no-audit --no-fund --ignore-scripts --omit=optional $kinesis_npm >&2)
  # A copy, so that the folder stays whole when the package is removed.
  faketime >/dev/null || install_faketime
  cp -L "$(faketime)" "$1/libfaketime.so.1"
}

# faketime: prints where this machine has the library that makes clocks run faster; fails when it has none.
faketime() {
  local file
  for file in /usr/lib/*/faketime/libfaketime.so.1 /usr/lib*/faketime/libfaketime.so.1 /usr/local/lib/faketime/libfaketime.so.1; do
    [ -e "$file" ] && echo "$file" && return
  done
  return 1
}

install_faketime() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "\`libfaketime.so.1\` is missing, and the part \`kinesis\` of the tests needs it"
    say "hint: install it (Debian: apt-get install libfaketime), or leave the part out with PINSQL_TEST_WITHOUT=kinesis"
    exit 3
  fi
  # Somebody else may be installing packages.
  apt-get update -qq -o DPkg::Lock::Timeout=300 >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 libfaketime >&2
}

# jars FOLDER SUBFOLDER "JAR..." OPTION...: these jars, and those that they need, in FOLDER/SUBFOLDER.
jars() {
  local folder=$1 subfolder=$2 list=$3
  shift 3
  # shellcheck disable=SC2086
  pom $list >"$folder/pom.xml"
  (cd "$folder" && mvn -q -B -Dstyle.color=never dependency:copy-dependencies -DoutputDirectory="$folder/$subfolder" \
    -DincludeScope=runtime "$@" >&2)
}

# pom GROUP:ARTIFACT:VERSION...: a project of Maven that depends on these.
pom() {
  local jar group artifact version
  echo '<project xmlns="http://maven.apache.org/POM/4.0.0">'
  echo '  <modelVersion>4.0.0</modelVersion>'
  echo '  <groupId>pinsql</groupId><artifactId>test-jars</artifactId><version>1</version><packaging>pom</packaging>'
  echo '  <dependencies>'
  for jar in "$@"; do
    IFS=: read -r group artifact version <<<"$jar"
    echo "    <dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
  done
  echo '  </dependencies>'
  echo '</project>'
}

# part NAME VERSIONS: installs the part when it is not there, then prints its folder.
part() {
  local name=$1 folder
  folder=$cache/$name-$(printf '%s' "$2" | cksum | cut -d' ' -f1)
  if [ ! -e "$folder/ready" ]; then
    need flock "$name" "Debian: apt-get install util-linux" "python,s3,spark,kafka,kinesis"
    mkdir -p "$cache"
    exec 9>"$cache/$name.lock"
    flock 9
    if [ ! -e "$folder/ready" ]; then
      say "installing $2 into $folder"
      rm -rf "$folder"
      "install_$name" "$folder" 9>&-
      du -sh "$folder" | sed 's/^/pinsql tests: installed /' >&2
      touch "$folder/ready"
    fi
    exec 9>&-
  fi
  echo "$folder"
}

[ $# -gt 0 ] || set -- python moto spark kafka kinesis
for name in "$@"; do
  case $name in
    python) part python "$python_packages" ;;
    moto) part moto "$moto_packages" ;;
    spark) part spark "$spark_packages $spark_jar" ;;
    kafka) part kafka "$kafka_jars" ;;
    kinesis) part kinesis "$kinesis_npm $kinesis_pypi" ;;
    *)
      say "no part is called \`$name\`: python, moto, spark, kafka, kinesis"
      exit 2
      ;;
  esac
done
