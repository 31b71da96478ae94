"""What somebody who wants harm hands to edgegen: corpora made by the tests, of whole classes."""
